"""Prompts in every form become one tensor; prompts that cannot be continued are refused with a message."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from pure import random
from pure.config import ModelConfig
from pure.generation import inputs as module

CPU = torch.device("cpu")
pad_prompts = inspect.unwrap(module.pad_prompts)
check_inputs = inspect.unwrap(module.check_inputs)
FORMS = (
    [[1], [2, 3]],
    [torch.tensor([1]), np.array([2, 3], np.uint16)],
    torch.tensor([[1, 0], [2, 3]], dtype=torch.int32),
)


@pytest.mark.parametrize("form", range(len(FORMS)))
def test_every_form_is_one_tensor(form: int) -> None:
    prompts: Any = FORMS[form]
    tokens, lengths = pad_prompts(
        prompts, torch.tensor([1, 2]) if isinstance(prompts, torch.Tensor) else None, CPU
    )
    assert tokens.dtype == lengths.dtype == torch.int64
    assert tokens.tolist() == [[1, 0], [2, 3]]
    assert lengths.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("prompts", "error", "words"),
    [
        ([1, 2], ValueError, r"got 1 for prompt 0; a single prompt is \[\["),
        ([[1.5]], TypeError, "must be integers, ids of tokens, got torch.float32"),
        (torch.ones(1, 2), TypeError, "must be integers, ids of tokens"),
        (["word"], TypeError, "prompt 0 is text, 'word'; encode it"),
    ],
)
def test_prompts_that_are_no_lists_of_ids_are_refused(
    prompts: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        pad_prompts(prompts, None, CPU)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"key": 0}, TypeError, "key must be a tensor .*; make one with pure.random.key"),
        ({"max_new_tokens": 2.5}, TypeError, "max_new_tokens must be integers, got 2.5"),
        ({"special_ids": [10]}, ValueError, r"stop_tokens and pad must be ids in 0 .. 9, got 10"),
        ({"special_ids": [-1]}, ValueError, r"stop_tokens and pad must be ids"),
        ({"special_ids": ["</s>"]}, TypeError, "stop_tokens and pad must be integers, got '</s>'"),
    ],
)
def test_invalid_generation_arguments_are_refused(
    changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    config = ModelConfig(vocab_size=10, hidden_size=8, num_attention_heads=2, num_key_value_heads=1)
    good: dict[str, Any] = {"key": random.key(0), "max_new_tokens": 5, "special_ids": (1,)}
    check_inputs(*pad_prompts([[1]], None, CPU), config=config, **good)
    with pytest.raises(error, match=words):
        check_inputs(*pad_prompts([[1]], None, CPU), config=config, **(good | changes))
