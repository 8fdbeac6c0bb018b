"""Sampling parameters: checked, one per row; random numbers depend on row and position only."""

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


def test_random_numbers_depend_on_row_and_position() -> None:
    drawn = draw_uniforms(KEY, 3, 4)
    for row in range(3):
        for place in range(4):
            own = random.fold_in(random.fold_in(KEY, row), place)
            assert drawn[row, place] == random.uniform(own)


def test_keys_can_be_given_one_a_row() -> None:
    keys = torch.stack([random.fold_in(KEY, row) for row in (2, 0)])
    assert torch.equal(draw_uniforms(keys, 2, 5), draw_uniforms(KEY, 3, 5)[[2, 0]])


def test_a_row_is_the_same_in_a_larger_batch_and_a_longer_text() -> None:
    assert torch.equal(draw_uniforms(KEY, 2, 3), draw_uniforms(KEY, 5, 7)[:2, :3])


def test_one_number_stands_for_all_rows() -> None:
    found = make_controls(
        KEY, 2, Sampling(3, temperature=0.5, top_k=None, top_p=torch.tensor([0.1, 0.2])), rows=4
    )
    assert found.temperature.tolist() == [0.5] * 4
    assert found.top_p is not None
    assert found.top_p.tolist() == pytest.approx([0.1, 0.2, 0.1, 0.1])
    assert found.top_k is None
    assert found.uniforms.shape == (4, 3)


def test_greedy_rows_draw_the_first_of_equals() -> None:
    found = make_controls(KEY, 2, Sampling(3, temperature=torch.tensor([0.0, 1.0])), rows=2)
    assert found.uniforms[0].tolist() == [0.0] * 3
    assert found.uniforms[1].min() > 0


@pytest.mark.parametrize(
    ("name", "value", "words"),
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
def test_numbers_out_of_range_are_refused(name: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*{words}"):
        make_controls(KEY, 2, Sampling(3, **{"temperature": 1.0, name: value}), rows=4)


def test_extend_repeats_the_first_row() -> None:
    assert pad_rows(torch.tensor([[1], [2]]), 4).tolist() == [[1], [2], [1], [1]]


def test_choose_gives_the_models_own_log_probability() -> None:
    """At the temperature, without penalty and truncation; at temperature 0, that of temperature 1."""
    logits = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    given = Controls(
        torch.zeros(2, 1), torch.tensor([0.5, 0.0]), top_k=1, repetition_penalty=torch.tensor([9.0, 9.0])
    )
    seen = torch.tensor([[False, True, False], [False, True, False]])
    ids, logprobs = sample_tokens(logits, torch.tensor([0.9, 0.0]), given, seen)
    assert ids.tolist() == [0, 0]
    expected = torch.stack(
        [sample.log_probability(logits[0] * 2, ids[0]), sample.log_probability(logits[1], ids[1])]
    )
    torch.testing.assert_close(logprobs, expected)


def test_choose_samples_from_the_remaining_tokens() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(1000, -1)
    uniform = (torch.arange(1000) + 0.5) / 1000
    given = Controls(torch.zeros(1000, 1), torch.full((1000,), 2.0), top_k=3, top_p=torch.full((1000,), 0.7))
    ids, _ = sample_tokens(logits, uniform, given, None)
    # Of 1, 2, 3, at temperature 2: 0.186, 0.307, 0.506; the two likeliest are the first to reach 0.7.
    left = torch.tensor([1.0, 1.5]).softmax(0)
    torch.testing.assert_close(
        ids.bincount(minlength=4) / 1000, torch.tensor([0, 0, *left]), atol=2e-3, rtol=0
    )


def test_a_temperature_next_to_nothing_is_greedy() -> None:
    made = make_controls(KEY, 2, Sampling(3, temperature=1e-7), rows=4)
    assert not made.temperature.any()
    assert not made.uniforms.any()


def test_a_fraction_counts_no_words() -> None:
    with pytest.raises(ValueError, match=r"top_k counts tokens and must be an integer, got 2\.5"):
        make_controls(KEY, 2, Sampling(3, temperature=1.0, top_k=2.5), rows=4)


def test_ids_beyond_the_vocabulary_are_never_drawn() -> None:
    """And the log-probability stays the model's own, as with every truncation."""
    logits = torch.tensor([[0.0, 1.0, 9.0, 8.0]]).expand(100, -1)
    uniform = (torch.arange(100) + 0.5) / 100
    made = make_controls(KEY, 100, Sampling(1, temperature=1.0, vocabulary=2), rows=100)
    ids, logprobs = sample_tokens(logits, uniform, made, None)
    assert set(ids.tolist()) == {0, 1}
    torch.testing.assert_close(logprobs, sample.log_probability(logits, ids))
    greedy = make_controls(KEY, 100, Sampling(1, temperature=0.0, vocabulary=2), rows=100)
    assert set(sample_tokens(logits, uniform, greedy, None)[0].tolist()) == {1}


@pytest.mark.parametrize("value", [0, -1, True])
def test_a_vocabulary_is_a_number_of_ids(value: Any) -> None:
    with pytest.raises(ValueError, match=r"vocabulary must be a number of ids, at least 1, or None"):
        make_controls(KEY, 2, Sampling(3, temperature=1.0, vocabulary=value), rows=4)
