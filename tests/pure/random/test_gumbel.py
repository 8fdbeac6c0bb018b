"""`random.gumbel` and `random.categorical` against jax.random's, over a million samples each."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch

from pure.random.gumbel import categorical, gumbel
from pure.random.keys import key

MILLION = 1 << 20
OURS, THEIRS = key(7), jax.random.PRNGKey(7)
LOGITS = np.random.default_rng(0).normal(size=(64, 9)).astype(np.float32)


@pytest.mark.parametrize("mode", ["low", "high"])
def test_gumbel_equals_jax_up_to_rounding(mode: str) -> None:
    """A Gumbel number takes two logarithms, which PyTorch and XLA round differently."""
    ours = gumbel(OURS, (MILLION,), mode=mode).double().numpy()
    theirs = np.asarray(jax.random.gumbel(THEIRS, (MILLION,), mode=mode), np.float64)
    assert np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))) < 2.4e-7


@pytest.mark.parametrize("mode", ["low", "high"])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_gumbel_equals_jax_exactly(name: str, mode: str) -> None:
    ours = gumbel(OURS, (MILLION,), getattr(torch, name), mode)
    assert np.array_equal(
        ours.double(), np.asarray(jax.random.gumbel(THEIRS, (MILLION,), name, mode), np.float64)
    )


def test_frequencies_of_categorical_approach_the_softmax() -> None:
    """The tolerance is five standard errors of 100,000 samples."""
    logits = torch.from_numpy(LOGITS[0])
    frequencies = categorical(OURS, logits, shape=(100_000,)).bincount(minlength=9) / 100_000
    torch.testing.assert_close(frequencies, logits.softmax(0), rtol=0, atol=0.008)


@pytest.mark.parametrize("mode", ["low", "high"])
def test_categorical_equals_jax(mode: str) -> None:
    shape, logits = (MILLION // 64, 64), LOGITS[:, :3].copy()
    ours = categorical(OURS, torch.from_numpy(logits), shape=shape, mode=mode)
    assert ours.dtype == torch.int64
    assert np.array_equal(ours, jax.random.categorical(THEIRS, logits, shape=shape, mode=mode))


@pytest.mark.parametrize(("axis", "shape"), [(-1, None), (0, (5, 9))])
def test_categorical_with_axis_and_shape_equals_jax(axis: int, shape: tuple[int, ...] | None) -> None:
    ours = categorical(OURS, torch.from_numpy(LOGITS), axis, shape)
    assert np.array_equal(ours, jax.random.categorical(THEIRS, LOGITS, axis, shape))


@pytest.mark.parametrize(
    ("axis", "shape"), [(0, (64, 9)), (1, (3, 64)), (-1, (3, 3, 64)), (0, (0, 9)), (0, (9,))]
)
def test_categorical_without_replacement_equals_jax(axis: int, shape: tuple[int, ...]) -> None:
    ours = categorical(OURS, torch.from_numpy(LOGITS), axis, shape, replace=False)
    assert np.array_equal(ours, jax.random.categorical(THEIRS, LOGITS, axis, shape, replace=False))


def test_outcomes_with_logit_minus_infinity_are_not_sampled() -> None:
    logits = torch.tensor([0.0, -torch.inf, 0.0])
    assert set(categorical(OURS, logits, shape=(10_000,)).tolist()) == {0, 2}
