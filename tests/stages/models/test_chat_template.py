"""The chat template of a model, the token that ends its turns, and every id that ends an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipes.chat.chat import chat_template
from data_pipes.chat.presets import NAMED
from stages.models import language_model
from stages.models.chat_template import stop_ids, template_of, turn_end, with_template
from stages.models.special_tokens import id_of
from stages.run import build
from stages.run.options.tuning import SFTOptions
from tests.outside import written
from tests.outside.special_tokens import CHATML, HEADER, PLAIN
from tests.stages.models.test_language_model import make

LLAMA = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}


def test_chatml_where_the_tokenizer_has_its_tokens() -> None:
    made = make()
    template = template_of(None, made)
    assert turn_end(template, made) == id_of(made.tokenizer, "<|im_end|>")
    assert (
        stop_ids(made)
        == stop_ids(made, template)
        == (made.model.config.eos_token_id, turn_end(template, made))
    )


def test_a_template_of_a_file_has_the_models_tokens(tmp_path: Path) -> None:
    base = language_model.load(written.model(tmp_path / "m", **LLAMA))
    (tmp_path / "t.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    )
    template = template_of(str(tmp_path / "t.jinja"), base)
    assert dict(template.special_tokens) == LLAMA
    assert turn_end(template, base) == 1


def test_a_model_is_saved_with_the_template_it_was_trained_with(tmp_path: Path) -> None:
    base = language_model.load(written.model(tmp_path / "m", generation={"eos_token_id": 1}, **LLAMA))
    trained = with_template(base, chat_template(HEADER, bos_token=LLAMA["bos_token"]))
    again = language_model.load(language_model.save(tmp_path / "again", trained))
    assert again.chat_template == HEADER
    assert again.special.generation == {"eos_token_id": [1, 4]}
    assert stop_ids(again) == (1, 4)
    once_more = with_template(again, template_of(None, again))
    assert once_more.special == again.special


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (CHATML, r"a turn ends with <\|im_end\|>, which is no token"),
        ("{{ bos_token }}", "leaves out what the assistant"),
        ("{{ raise_exception('no') }}", "no"),
        ("{% for %}", "line 1"),
    ],
)
def test_a_template_that_cannot_work_is_named(source: str, message: str, tmp_path: Path) -> None:
    base = language_model.load(written.model(tmp_path / "m", **LLAMA))
    (tmp_path / "t.jinja").write_text(source)
    with pytest.raises(ValueError, match=message):
        template_of(str(tmp_path / "t.jinja"), base)


def test_a_turn_that_ends_with_plain_text_needs_an_eos_token(tmp_path: Path) -> None:
    base = language_model.load(written.model(tmp_path / "m", chat_template=PLAIN, **LLAMA))
    assert turn_end(template_of(None, base), base) is None
    assert stop_ids(base, template_of(None, base)) == (1,)


def test_a_template_of_ours_by_its_name() -> None:
    made = make()
    template = template_of("qwen3", made, '{"enable_thinking": false}')
    assert template.source == NAMED["qwen3"]
    assert dict(template.variables) == {"enable_thinking": False}
    assert turn_end(template, made) == id_of(made.tokenizer, "<|im_end|>")
    with pytest.raises(
        FileNotFoundError, match=r"--chat_template qwen4: .* one of chatml, deepseek-r1, llama3, qwen2.5"
    ):
        template_of("qwen4", made)
    with pytest.raises(ValueError, match="uses no variable 'enable_thinking'"):
        template_of("qwen2.5", made, '{"enable_thinking": false}')


def test_a_template_of_ours_passes_the_checks_of_flags(tmp_path: Path) -> None:
    folder = language_model.save(tmp_path / "model", make())
    for name in NAMED:
        build.check(SFTOptions(model_path=str(folder), max_length=16, chat_template=name, device="cpu"))
    with pytest.raises(
        FileNotFoundError, match="--chat_template nothing: expected a file of a jinja2 template, or one"
    ):
        build.check(SFTOptions(model_path=str(folder), max_length=16, chat_template="nothing", device="cpu"))
