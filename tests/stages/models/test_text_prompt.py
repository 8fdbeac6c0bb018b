"""`stages.models.text_prompt`: plain texts as prompts begin with the tokenizer's prefix exactly once."""

from __future__ import annotations

from pathlib import Path

from stages.models import language_model, text_prompt
from tests.outside import written
from tests.stages.models.test_language_model import make_model

BEGIN = "<|begin_of_text|>"


def test_special_tokens_in_a_prompt_are_text_unless_special_is_all(tmp_path: Path) -> None:
    base = language_model.load(written.model(tmp_path, before=(BEGIN,)))
    assert text_prompt.encode_prompt(base, BEGIN + "a", special="all") == text_prompt.encode_prompt(base, "a")
    assert text_prompt.encode_prompt(base, "a")[0] == 0
    plain = text_prompt.encode_prompt(base, BEGIN + "a")
    assert plain[0] == 0
    assert 0 not in plain[1:]


def test_the_prefix_token_is_the_tokenizer_s_bos_or_eos_then_the_config_s(tmp_path: Path) -> None:
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
    assert text_prompt.prefix_token(make_model()) == make_model().model.config.eos_token_id
