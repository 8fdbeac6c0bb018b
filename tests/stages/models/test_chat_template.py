"""`stages.models.chat_template`: the template of a model, its end-of-turn token, and the stop ids."""

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
from tests.stages.models.test_language_model import make_model

LLAMA_TOKENS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}


def test_a_model_without_a_template_uses_chatml_if_its_tokens_exist() -> None:
    pretrained = make_model()
    template = template_of(None, pretrained)
    assert turn_end(template, pretrained) == id_of(pretrained.tokenizer, "<|im_end|>")
    assert (
        stop_ids(pretrained)
        == stop_ids(pretrained, template)
        == (pretrained.model.config.eos_token_id, turn_end(template, pretrained))
    )


def test_a_template_file_is_rendered_with_the_model_s_special_tokens(tmp_path: Path) -> None:
    base = language_model.load(written.model(tmp_path / "m", **LLAMA_TOKENS))
    (tmp_path / "t.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    )
    template = template_of(str(tmp_path / "t.jinja"), base)
    assert dict(template.special_tokens) == LLAMA_TOKENS
    assert turn_end(template, base) == 1


def test_a_model_is_saved_with_the_template_it_was_trained_with(tmp_path: Path) -> None:
    base = language_model.load(written.model(tmp_path / "m", generation={"eos_token_id": 1}, **LLAMA_TOKENS))
    trained = with_template(base, chat_template(HEADER, bos_token=LLAMA_TOKENS["bos_token"]))
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
def test_a_template_that_cannot_work_is_refused_by_its_reason(
    source: str, message: str, tmp_path: Path
) -> None:
    base = language_model.load(written.model(tmp_path / "m", **LLAMA_TOKENS))
    (tmp_path / "t.jinja").write_text(source)
    with pytest.raises(ValueError, match=message):
        template_of(str(tmp_path / "t.jinja"), base)


def test_a_turn_that_ends_with_plain_text_stops_at_eos(tmp_path: Path) -> None:
    base = language_model.load(written.model(tmp_path / "m", chat_template=PLAIN, **LLAMA_TOKENS))
    assert turn_end(template_of(None, base), base) is None
    assert stop_ids(base, template_of(None, base)) == (1,)


def test_a_named_template_takes_variables_and_unknown_names_are_refused() -> None:
    pretrained = make_model()
    template = template_of("qwen3", pretrained, '{"enable_thinking": false}')
    assert template.source == NAMED["qwen3"]
    assert dict(template.variables) == {"enable_thinking": False}
    assert turn_end(template, pretrained) == id_of(pretrained.tokenizer, "<|im_end|>")
    with pytest.raises(
        FileNotFoundError, match=r"--chat_template qwen4: .* one of chatml, deepseek-r1, llama3, qwen2.5"
    ):
        template_of("qwen4", pretrained)
    with pytest.raises(ValueError, match="uses no variable 'enable_thinking'"):
        template_of("qwen2.5", pretrained, '{"enable_thinking": false}')


def test_every_named_template_passes_the_checks_of_flags(tmp_path: Path) -> None:
    folder = language_model.save(tmp_path / "model", make_model())
    for name in NAMED:
        build.check(SFTOptions(model_path=str(folder), max_length=16, chat_template=name, device="cpu"))
    with pytest.raises(
        FileNotFoundError, match="--chat_template nothing: expected a file of a jinja2 template, or one"
    ):
        build.check(SFTOptions(model_path=str(folder), max_length=16, chat_template="nothing", device="cpu"))
