"""`random.choice` against jax.random.choice, bit for bit, and its refusals."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import numpy as np
import pytest
import torch

from pure.random.choice import choice, cumulative_sum
from pure.random.keys import key, split

OURS, THEIRS = key(7), jax.random.PRNGKey(7)
UNCHECKED_CHOICE = inspect.unwrap(choice)
"""Without the type checks of `tests/signatures.py`, which would refuse bad types first."""


def weights(n: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(n).random(n).astype(np.float32)


@pytest.mark.parametrize("n", [16, 17, 5000])
def test_cumulative_sum_is_rounded_as_in_xla(n: int) -> None:
    assert np.array_equal(cumulative_sum(torch.from_numpy(weights(n))), jax.numpy.cumsum(weights(n)))


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_choice_from_a_range_equals_jax(replace: bool, weighted: bool) -> None:
    n, shape = 1000, (1 << 17,) if replace else (20, 30)
    p = weights(n) if weighted else None
    ours = choice(OURS, n, shape, replace, None if p is None else torch.from_numpy(p))
    assert ours.dtype == torch.int64
    assert np.array_equal(ours, jax.random.choice(THEIRS, n, shape, replace, p))


@pytest.mark.parametrize(("axis", "shape"), [(0, ()), (-2, (1, 2))])
@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_choice_along_an_axis_of_a_tensor_equals_jax(
    axis: int, shape: tuple[int, ...], replace: bool, weighted: bool
) -> None:
    x = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    p = weights(x.shape[axis]) if weighted else None
    ours = choice(OURS, torch.from_numpy(x), shape, replace, torch.from_numpy(p) if weighted else None, axis)
    theirs = np.asarray(jax.random.choice(THEIRS, x, shape, replace, p, axis))
    assert ours.shape == theirs.shape
    assert np.array_equal(ours, theirs)


def test_zero_draws_give_an_empty_tensor_with_the_other_axes() -> None:
    """JAX drops the other axes: its result has the shape (0, 2)."""
    assert choice(OURS, torch.zeros(4, 3), (0, 2), axis=0).shape == (0, 2, 3)
    assert choice(OURS, 0, (0,)).dtype == torch.int64


def test_choice_under_vmap_equals_a_loop_and_compiled_equals_eager() -> None:
    keys, p = split(OURS, 4), torch.from_numpy(weights(20)).expand(4, 20)
    for replace in (True, False):

        def sample(key: torch.Tensor, p: torch.Tensor, replace: bool = replace) -> torch.Tensor:
            return choice(key, 20, (5,), replace, p)

        one_by_one = torch.stack([sample(*pair) for pair in zip(keys, p, strict=True)])
        assert torch.equal(torch.func.vmap(sample)(keys, p), one_by_one)
        if replace:
            compiled = torch.compile(sample, backend="aot_eager", fullgraph=True)
            assert torch.equal(compiled(keys[0], p[0]), one_by_one[0])


def test_frequencies_of_choices_approach_their_probabilities() -> None:
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    frequencies = choice(OURS, 4, (1 << 17,), p=p).bincount(minlength=4) / (1 << 17)
    torch.testing.assert_close(frequencies, p, rtol=0, atol=0.007)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 3), r"shape must be a tuple, got 3; write \(3,\)"),
        ((torch.tensor(5), (3,)), "a must be an int or a tensor with an axis"),
        ((0, (3,)), "a is empty"),
        ((3, (2, 2), False), "4 draws without replacement from 3"),
        ((3, (2,), True, [0.5, 0.5, 0.0]), "p must be a tensor, got list"),
        ((3, (2,), True, torch.ones(2)), r"p must be \[3\]"),
        ((3, (2,), True, torch.ones(3).bfloat16()), "p must be float32 or float64"),
        ((3, (2,), True, torch.tensor([1.0, -1.0, 1.0])), "at least 0"),
        ((3, (2,), True, torch.zeros(3)), "somewhere above 0"),
        ((3, (2,), True, torch.tensor([1.0, torch.nan, 1.0])), "must be finite"),
        ((3, (2,), False, torch.tensor([1.0, 0.0, 0.0])), "p is above 0 for 1"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        UNCHECKED_CHOICE(OURS, *arguments)
