"""`chat_prompt`: the ids of a chat prompt, the form that is recorded, and the end-of-turn token."""

from __future__ import annotations

from pathlib import Path

from data_pipes.tokenizer import special_id
from stages.evaluate.chat_prompt import chat_prompt
from stages.models import language_model
from stages.models.chat_template import template_of
from tests.outside import written
from tests.outside.special_tokens import CHATML


def test_the_template_gives_the_prompt_and_the_stop_token(tmp_path: Path) -> None:
    tokens = ("<|im_start|>", "<|im_end|>")
    loaded = language_model.load(
        written.model(tmp_path, tokens, eos_token="<|im_end|>", chat_template=CHATML)
    )
    chat = chat_prompt(loaded)
    text = loaded.tokenizer.decode(chat.encode("Hi"))
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert chat.form == CHATML
    assert special_id(loaded.tokenizer, "<|im_end|>") in chat.stop_tokens


def test_template_variables_are_part_of_the_recorded_form(tmp_path: Path) -> None:
    source = CHATML + "{{ style }}"
    loaded = language_model.load(
        written.model(tmp_path, ("<|im_start|>", "<|im_end|>"), chat_template=source)
    )
    template = template_of(None, loaded, '{"style": "brief"}')
    assert chat_prompt(loaded, template=template).form == f"{source}\n{template.variables!r}"
