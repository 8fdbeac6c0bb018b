"""Plain texts as prompts: what a tokenizer puts before a text stands there once."""

from __future__ import annotations

from pathlib import Path

from stages.models import language_model, text_prompt
from tests.outside import written
from tests.stages.models.test_language_model import make

BEGIN = "<|begin_of_text|>"


def test_control_tokens_are_text_unless_they_are_asked_for(tmp_path: Path) -> None:
    base = language_model.load(written.model(tmp_path, before=(BEGIN,)))
    assert text_prompt.encode_prompt(base, BEGIN + "a", special="all") == text_prompt.encode_prompt(base, "a")
    assert text_prompt.encode_prompt(base, "a")[0] == 0
    plain = text_prompt.encode_prompt(base, BEGIN + "a")
    assert plain[0] == 0
    assert 0 not in plain[1:]


def test_documents_begin_as_the_tokenizer_says_and_then_as_the_configuration_does(tmp_path: Path) -> None:
    assert (
        text_prompt.prefix_token(
            language_model.load(written.model(tmp_path / "a", bos_token="<|pad|>", eos_token=BEGIN))
        )
        == 5
    )
    assert (
        text_prompt.prefix_token(language_model.load(written.model(tmp_path / "b", eos_token="<|pad|>"))) == 5
    )
    assert text_prompt.prefix_token(language_model.load(written.model(tmp_path / "c"))) == 0
    assert text_prompt.prefix_token(make()) == make().model.config.eos_token_id
