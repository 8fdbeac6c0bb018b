"""Paired differences, by hand and by simulation."""

from __future__ import annotations

import math
import random

import pytest

from stages.evaluate.compare import compare, format_table, mcnemar


def _samples(scores: list[float], task: str = "t", **more: list) -> dict[str, list[dict]]:
    """One sample a score."""
    return {
        task: [
            {"id": f"i{i}", "prompt": f"p{i}", "score": s, **{k: v[i] for k, v in more.items()}}
            for i, s in enumerate(scores)
        ]
    }


def test_by_hand() -> None:
    """Three of four questions differ by 1, 1 and -1: mean 0.25, s = 0.9574, stderr 0.4787."""
    (found,) = compare(_samples([0, 0, 1, 1.0]), _samples([1, 1, 0, 1.0]))
    assert (found.first, found.second, found.value, found.higher, found.lower) == (0.5, 0.75, 0.25, 2, 1)
    assert found.high - found.value == pytest.approx(1.959964 * math.sqrt(11 / 12) / 2)
    assert found.p == mcnemar(2, 1) == 1.0


def test_question_difficulty_cancels() -> None:
    """Scores that vary by question far more than by model: the paired interval is narrow."""
    draw = random.Random(0)
    hard = [draw.gauss(0, 5) for _ in range(400)]
    first = [h + draw.gauss(0, 0.5) for h in hard]
    second = [h + 0.2 + draw.gauss(0, 0.5) for h in hard]
    (found,) = compare(_samples(first), _samples(second))
    assert 0.1 < found.low < 0.2 < found.high < 0.3
    assert found.p < 1e-3


def test_the_interval_holds_the_truth_nineteen_times_of_twenty() -> None:
    draw, inside = random.Random(1), 0
    for _ in range(300):
        first = [draw.random() for _ in range(60)]
        second = [x + 0.1 + draw.gauss(0, 0.3) for x in first]
        (found,) = compare(_samples(first), _samples(second))
        inside += found.low <= 0.1 <= found.high
    assert 0.90 <= inside / 300 <= 0.99


def test_documents_weigh_as_many_bytes_as_they_have() -> None:
    first, second = _samples([2.0, 1.0], bytes=[1, 3]), _samples([1.0, 1.0], bytes=[1, 3])
    (found,) = compare(first, second)
    assert (found.first, found.second) == (pytest.approx(5 / 4), pytest.approx(1.0))


def test_equal_answers_differ_by_nothing() -> None:
    (found,) = compare(_samples([0.25, 1.5]), _samples([0.25, 1.5]))
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert "+0.0000" in format_table([found])


def test_mcnemar_by_counting() -> None:
    assert mcnemar(1, 4) == pytest.approx(2 * (1 + 5) / 32)
    assert mcnemar(4, 1) == mcnemar(1, 4)


def test_incomparable_results_are_refused() -> None:
    with pytest.raises(ValueError, match="no task in common: t and u"):
        compare(_samples([1.0, 0.0]), _samples([1.0, 0.0], task="u"))
    with pytest.raises(ValueError, match="share 1 questions"):
        compare(_samples([1.0]), _samples([1.0]))
    for part in ("item", "protocol"):
        other = _samples([1.0, 0.0])
        other["t"][1][part] = "something else"
        with pytest.raises(ValueError, match="asked i1 in different ways"):
            compare(_samples([1.0, 0.0]), other)


def test_programs_for_one_problem_are_one_question() -> None:
    """Twenty problems of fifty programs; the second is right on all of two: two questions differ, not a
    hundred."""
    problems = [f"p{i // 50}" for i in range(1000)]
    first, second = [0.0] * 1000, [float(i < 100) for i in range(1000)]
    (found,) = compare(_samples(first, problem=problems), _samples(second, problem=problems))
    assert (found.count, found.higher, found.value) == (20, 2, pytest.approx(0.1))
    assert found.p == 0.5
