"""`read_special_tokens`: the special tokens that the fields of a GGUF file name."""

from __future__ import annotations

from typing import Any

import pytest

from data_pipes import tokenizer as tokenizers
from stages.models.gguf import read_special_tokens

TOKENIZER = tokenizers.train(["a b"], 300, special_tokens=["<s>", "</s>", "<eot>", "<eom>"])


def fields(**ids: Any) -> dict[str, Any]:
    return {f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items()}


def test_special_tokens_and_stop_ids_are_read_from_the_fields() -> None:
    found = read_special_tokens(fields(bos=0, eos=1, eot=2, eom=3, padding=1, unknown=2**32 - 1), TOKENIZER)
    assert dict(found.named or ()) == {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    assert found.config_ends == (1,)
    assert found.generation == {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": [1, 2, 3]}


def test_a_file_without_special_tokens_gives_none() -> None:
    found = read_special_tokens({}, TOKENIZER)
    assert (found.named, found.config_ends, found.generation) == ((), (), {})


@pytest.mark.parametrize("value", [10**6, "1", 1.0, True, -2])
def test_an_invalid_id_is_refused_by_its_field(value: Any) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.eot_token_id must be an id below"):
        read_special_tokens(fields(eot=value), TOKENIZER)
