"""`pure.generation.controls`: sampling parameters per row, and a random number per row and position."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pure import random
from pure.generation import sample
from pure.generation.controls import Controls, draw_uniforms, make_controls, pad_rows, sample_tokens
from pure.generation.sampling import Sampling

KEY = random.key(5)


def test_the_uniform_of_a_row_and_position_depends_on_its_own_key() -> None:
    uniforms = draw_uniforms(KEY, 3, 4)
    for row in range(3):
        for position in range(4):
            own_key = random.fold_in(random.fold_in(KEY, row), position)
            assert uniforms[row, position] == random.uniform(own_key)


def test_one_key_per_row_equals_one_key_folded_with_the_rows() -> None:
    keys = torch.stack([random.fold_in(KEY, row) for row in (2, 0)])
    assert torch.equal(draw_uniforms(keys, 2, 5), draw_uniforms(KEY, 3, 5)[[2, 0]])


def test_the_uniforms_of_a_row_are_the_same_in_a_larger_batch_and_a_longer_text() -> None:
    assert torch.equal(draw_uniforms(KEY, 2, 3), draw_uniforms(KEY, 5, 7)[:2, :3])


def test_a_number_is_repeated_for_all_rows_and_a_tensor_is_padded_with_its_first() -> None:
    controls = make_controls(
        KEY, 2, Sampling(3, temperature=0.5, top_k=None, top_p=torch.tensor([0.1, 0.2])), rows=4
    )
    assert controls.temperature.tolist() == [0.5] * 4
    assert controls.top_p is not None
    assert controls.top_p.tolist() == pytest.approx([0.1, 0.2, 0.1, 0.1])
    assert controls.top_k is None
    assert controls.uniforms.shape == (4, 3)


def test_greedy_rows_have_uniforms_of_zero() -> None:
    """So that the first of equal logits is sampled."""
    controls = make_controls(KEY, 2, Sampling(3, temperature=torch.tensor([0.0, 1.0])), rows=2)
    assert controls.uniforms[0].tolist() == [0.0] * 3
    assert controls.uniforms[1].min() > 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", -0.1, "at least 0"),
        ("temperature", math.nan, "at least 0"),
        ("temperature", math.inf, "at least 0"),
        ("top_k", 0, "at least 1"),
        ("top_p", 0.0, r"in \(0, 1\]"),
        ("top_p", 1.01, r"in \(0, 1\]"),
        ("top_p", torch.tensor([0.5, 1.5]), "got 1.5"),
        ("min_p", -0.5, r"in \[0, 1\]"),
        ("repetition_penalty", 0.0, "above 0"),
        ("temperature", torch.ones(3), r"\[B\] = \[2\]"),
    ],
)
def test_sampling_parameters_out_of_range_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*{message}"):
        make_controls(KEY, 2, Sampling(3, **{"temperature": 1.0, name: value}), rows=4)


def test_pad_rows_repeats_the_first_row() -> None:
    assert pad_rows(torch.tensor([[1], [2]]), 4).tolist() == [[1], [2], [1], [1]]


def test_sample_tokens_returns_log_probabilities_before_truncation() -> None:
    """Those of the model at the temperature, without penalty; at temperature 0, those of temperature 1."""
    logits = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    controls = Controls(
        torch.zeros(2, 1), torch.tensor([0.5, 0.0]), top_k=1, repetition_penalty=torch.tensor([9.0, 9.0])
    )
    seen = torch.tensor([[False, True, False], [False, True, False]])
    ids, logprobs = sample_tokens(logits, torch.tensor([0.9, 0.0]), controls, seen)
    assert ids.tolist() == [0, 0]
    expected = torch.stack(
        [sample.log_probability(logits[0] * 2, ids[0]), sample.log_probability(logits[1], ids[1])]
    )
    torch.testing.assert_close(logprobs, expected)


def test_sample_tokens_samples_from_the_truncated_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(1000, -1)
    uniform = (torch.arange(1000) + 0.5) / 1000
    controls = Controls(
        torch.zeros(1000, 1), torch.full((1000,), 2.0), top_k=3, top_p=torch.full((1000,), 0.7)
    )
    ids, _ = sample_tokens(logits, uniform, controls, None)
    # top_k leaves 1, 2, 3, with 0.186, 0.307, 0.506 at temperature 2; the two likeliest reach top_p = 0.7.
    expected = torch.tensor([1.0, 1.5]).softmax(0)
    torch.testing.assert_close(
        ids.bincount(minlength=4) / 1000, torch.tensor([0, 0, *expected]), atol=2e-3, rtol=0
    )


def test_a_tiny_temperature_is_greedy() -> None:
    controls = make_controls(KEY, 2, Sampling(3, temperature=1e-7), rows=4)
    assert not controls.temperature.any()
    assert not controls.uniforms.any()


def test_a_fractional_top_k_is_refused() -> None:
    with pytest.raises(ValueError, match=r"top_k counts tokens and must be an integer, got 2\.5"):
        make_controls(KEY, 2, Sampling(3, temperature=1.0, top_k=2.5), rows=4)


def test_ids_beyond_the_vocabulary_are_never_sampled() -> None:
    """And the log-probability stays the model's own, as with every truncation."""
    logits = torch.tensor([[0.0, 1.0, 9.0, 8.0]]).expand(100, -1)
    uniform = (torch.arange(100) + 0.5) / 100
    controls = make_controls(KEY, 100, Sampling(1, temperature=1.0, vocabulary=2), rows=100)
    ids, logprobs = sample_tokens(logits, uniform, controls, None)
    assert set(ids.tolist()) == {0, 1}
    torch.testing.assert_close(logprobs, sample.log_probability(logits, ids))
    greedy = make_controls(KEY, 100, Sampling(1, temperature=0.0, vocabulary=2), rows=100)
    assert set(sample_tokens(logits, uniform, greedy, None)[0].tolist()) == {1}


@pytest.mark.parametrize("value", [0, -1, True])
def test_a_vocabulary_that_is_no_positive_integer_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"vocabulary must be a number of ids, at least 1, or None"):
        make_controls(KEY, 2, Sampling(3, temperature=1.0, vocabulary=value), rows=4)


def test_controls_are_applied_in_order_and_in_float32() -> None:
    """Vocabulary, penalty, temperature, top-k, top-p, min-p: also of bfloat16 logits, which are not rounded."""
    generator = torch.Generator().manual_seed(4)
    rows = 400
    logits = (3 * torch.randn(rows, 20, generator=generator)).bfloat16()
    seen, uniform = torch.rand(rows, 20, generator=generator) < 0.4, torch.rand(rows, generator=generator)
    temperatures = torch.tensor([0.0, 0.5, 0.8, 3.0]).repeat(rows // 4)
    share, least, penalty = torch.full((rows,), 0.9), torch.full((rows,), 0.05), torch.full((rows,), 1.7)
    controls = Controls(uniform[:, None], temperatures, 6, share, least, penalty, vocabulary=17)
    ids, logprobs = sample_tokens(logits, uniform, controls, seen)
    wide = logits.float()
    allowed = torch.where(torch.arange(20) < 17, wide, -torch.inf)
    penalised = torch.where(seen, torch.where(allowed > 0, allowed / 1.7, allowed * 1.7), allowed)
    kept = sample.top_k(sample.temperature(penalised, temperatures), 6)
    expected = sample.sample(sample.min_p(sample.top_p(kept, 0.9), 0.05), uniform)
    assert torch.equal(ids, expected)
    full = (wide / torch.where(temperatures == 0, 1.0, temperatures)[:, None]).log_softmax(-1)
    torch.testing.assert_close(logprobs, full.gather(1, ids[:, None])[:, 0], rtol=1e-5, atol=1e-5)
