"""`compare` and `mcnemar`: paired differences of two evaluations, by hand and by simulation."""

from __future__ import annotations

import math
import random

import pytest

from stages.evaluate.compare import compare, format_table, mcnemar


def _samples(scores: list[float], task: str = "t", **columns: list) -> dict[str, list[dict]]:
    """{task: one sample for each score}, each with its entry of every further column."""
    samples = []
    for i, score in enumerate(scores):
        further = {name: column[i] for name, column in columns.items()}
        samples.append({"id": f"i{i}", "prompt": f"p{i}", "score": score, **further})
    return {task: samples}


def test_the_difference_of_four_questions_by_hand() -> None:
    """Three of four questions differ by 1, 1 and -1: mean 0.25, s = 0.9574, stderr 0.4787."""
    (found,) = compare(_samples([0, 0, 1, 1.0]), _samples([1, 1, 0, 1.0]))
    (graded,) = compare(_samples([0, 0, 1, 2.0]), _samples([1, 1, 0, 2.0]))
    assert (found.first, found.second, found.value, found.higher, found.lower) == (0.5, 0.75, 0.25, 2, 1)
    assert (found.low, found.high) == (-0.5, 0.5)
    assert graded.high - graded.value == pytest.approx(1.959964 * math.sqrt(11 / 12) / 2)
    assert found.p == mcnemar(2, 1) == 1.0


def test_the_difficulty_of_questions_cancels_in_paired_differences() -> None:
    """Scores vary far more by question than by model, and yet the paired interval is narrow."""
    rng = random.Random(0)
    difficulty = [rng.gauss(0, 5) for _ in range(400)]
    first = [x + rng.gauss(0, 0.5) for x in difficulty]
    second = [x + 0.2 + rng.gauss(0, 0.5) for x in difficulty]
    (found,) = compare(_samples(first), _samples(second))
    assert 0.1 < found.low < 0.2 < found.high < 0.3
    assert found.p < 1e-3


def test_95_percent_of_the_intervals_contain_the_true_difference() -> None:
    rng, inside = random.Random(1), 0
    for _ in range(300):
        first = [rng.random() for _ in range(60)]
        second = [x + 0.1 + rng.gauss(0, 0.3) for x in first]
        (found,) = compare(_samples(first), _samples(second))
        inside += found.low <= 0.1 <= found.high
    assert 0.90 <= inside / 300 <= 0.99


@pytest.mark.parametrize(
    ("before", "after", "low", "high"),
    [("0000", "1110", 0.26, 1.0), ("1110", "0000", -0.75, -0.26), ("1111", "0111", -0.74, 0.0)],
)
def test_an_interval_of_shares_ends_where_the_second_share_does(
    before: str, after: str, low: float, high: float
) -> None:
    (found,) = compare(_samples([float(x) for x in before]), _samples([float(x) for x in after]))
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-3), pytest.approx(high, abs=5e-3))
    (scaled,) = compare(_samples([2.0 * float(x) for x in before]), _samples([2.0 * float(x) for x in after]))
    width = 2 * 1.96 * 2 * 0.25
    assert scaled.high - scaled.low == pytest.approx(width, abs=0.01)  # not shares: the normal interval


def test_documents_are_weighted_by_their_bytes() -> None:
    first, second = _samples([2.0, 1.0], bytes=[1, 3]), _samples([1.0, 1.0], bytes=[1, 3])
    (found,) = compare(first, second)
    assert (found.first, found.second) == (pytest.approx(5 / 4), pytest.approx(1.0))


def test_equal_scores_have_difference_0_and_p_1() -> None:
    (found,) = compare(_samples([0.25, 1.5]), _samples([0.25, 1.5]))
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert "+0.0000" in format_table([found])


def test_mcnemar_equals_the_binomial_tail() -> None:
    assert mcnemar(1, 4) == pytest.approx(2 * (1 + 5) / 32)
    assert mcnemar(4, 1) == mcnemar(1, 4)


def test_incomparable_results_are_refused() -> None:
    with pytest.raises(ValueError, match="no task in common: t and u"):
        compare(_samples([1.0, 0.0]), _samples([1.0, 0.0], task="u"))
    with pytest.raises(ValueError, match="share 1 question;"):
        compare(_samples([1.0]), _samples([1.0]))
    for part in ("item", "protocol"):
        other = _samples([1.0, 0.0])
        other["t"][1][part] = "something else"
        with pytest.raises(ValueError, match="asked i1 in different ways"):
            compare(_samples([1.0, 0.0]), other)


def test_samples_of_one_problem_count_as_one_question() -> None:
    """Twenty problems with fifty programs each; the second model solves two problems with all its programs:
    two questions differ, not a hundred."""
    problems = [f"p{i // 50}" for i in range(1000)]
    first, second = [0.0] * 1000, [float(i < 100) for i in range(1000)]
    (found,) = compare(_samples(first, problem=problems), _samples(second, problem=problems))
    assert (found.count, found.higher, found.value) == (20, 2, pytest.approx(0.1))
    assert found.p == 0.5
