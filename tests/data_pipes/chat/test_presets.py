"""The named chat templates: their trained tokens; a generation prompt begins the training text.

`tests/outside/templates.py` compares the rendered texts with transformers.
"""

from __future__ import annotations

import pytest

from data_pipes.chat.chat import chat_template, encode_completions, encode_prompt_chats, render
from data_pipes.chat.messages import Message
from data_pipes.chat.presets import NAMED
from data_pipes.tokenizer.trainer import train

CONTROLS = [
    "<s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜end▁of▁sentence｜>",
]
TOKENIZER = train(["the user asks"], 300, special_tokens=CONTROLS)
TALK = [Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c")]


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("answer", ["d", "<think>\nhm\n</think>\n\nd", "\nd"])
def test_a_generation_prompt_is_the_beginning_of_the_training_text(name: str, answer: str) -> None:
    template = chat_template(NAMED[name], bos_token="<s>", eos_token="<｜end▁of▁sentence｜>")
    prompt = encode_prompt_chats(template, TOKENIZER, [TALK])[0].tokens.tolist()
    whole, trained = encode_completions(template, TOKENIZER, [(TALK, [Message("assistant", answer)])])[0]
    first = int(trained.argmax())
    if name == "deepseek-r1":  # its prompt ends with "<think>"
        assert TOKENIZER.decode(whole[:first]).endswith(
            "<｜Assistant｜>" + "<think>\n" * ("<think>" in answer)
        )
        assert TOKENIZER.decode(whole[trained]) == answer.removeprefix("<think>\n") + "<｜end▁of▁sentence｜>"
        return
    assert whole[: len(prompt)].tolist() == prompt
    assert first == len(prompt)
    assert answer.strip() in TOKENIZER.decode(whole[first:])


@pytest.mark.parametrize("name", sorted(set(NAMED) - {"chatml"}))
def test_named_templates_have_generation_blocks(name: str) -> None:
    assert chat_template(NAMED[name]).program.marked


def test_empty_thoughts_belong_to_the_prompt_when_thinking_is_off() -> None:
    source = NAMED["qwen3"]
    for thinking, learned in ((False, "d<|im_end|>"), (True, "<think>\n\n</think>\n\nd<|im_end|>")):
        template = chat_template(source, variables=[("enable_thinking", thinking)])
        tokens, trained = encode_completions(template, TOKENIZER, [(TALK, [Message("assistant", "d")])])[0]
        assert TOKENIZER.decode(tokens[trained]) == learned
        assert TOKENIZER.decode(tokens[: trained.argmax()]) == render(
            template, TALK, add_generation_prompt=True
        )


def test_a_later_system_message_is_refused_by_deepseek() -> None:
    with pytest.raises(ValueError, match="must be the first"):
        render(chat_template(NAMED["deepseek-r1"]), [TALK[1], TALK[0]])
