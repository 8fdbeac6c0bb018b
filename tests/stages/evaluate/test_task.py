"""`run_task` answers questions in chunks and reuses saved samples; `mean` and `ratio` give figures."""

from __future__ import annotations

import math
import statistics

import pytest

from stages.evaluate.task import Figure, Task, mean, protocol_hash, ratio, run_task, template_hash


def _task(asked: list[int], count: int = 5, **about: object) -> Task:
    """A task that scores question i with i, and appends the numbers of the questions to `asked`."""

    def answer(numbers: list[int]) -> list[dict]:
        asked.extend(numbers)
        return [{"prompt": f"p{i}", "output": str(i), "score": float(i)} for i in numbers]

    def summary(found: list[dict]) -> dict[str, Figure]:
        return {"score": mean([sample["score"] for sample in found])}

    return Task(
        "t", [f"i{i}" for i in range(count)], answer, summary, about, 2, [f"d{i}" for i in range(count)]
    )


def test_all_questions_are_answered_in_chunks_and_saved() -> None:
    asked: list[int] = []
    saved: list[list[dict]] = []
    report = run_task(_task(asked), save=saved.append)
    assert asked == [0, 1, 2, 3, 4]
    assert [len(part) for part in saved] == [2, 2, 1]
    assert report.figures["score"].value == 2.0
    assert report.samples[3] == {
        "task": "t",
        "id": "i3",
        "prompt": "p3",
        "output": "3",
        "score": 3.0,
        "item": "d3",
        "template": template_hash(_task([])),
        "protocol": protocol_hash(_task([])),
    }


def test_saved_answers_are_reused() -> None:
    asked: list[int] = []
    report = run_task(_task(asked), {"i1": {"id": "i1", "score": 10.0, "item": "d1"}})
    assert asked == [0, 2, 3, 4]
    assert [sample["score"] for sample in report.samples] == [0.0, 10.0, 2.0, 3.0, 4.0]


def test_a_saved_answer_to_another_question_with_the_same_id_is_not_reused() -> None:
    asked: list[int] = []
    report = run_task(_task(asked), {"i1": {"id": "i1", "score": 10.0, "item": "another"}})
    assert asked == [0, 1, 2, 3, 4]
    assert report.samples[1]["score"] == 1.0


def test_the_protocol_hash_ignores_the_form_and_the_template_hash_does_not() -> None:
    assert protocol_hash(_task([], shots=5, form="a")) == protocol_hash(_task([], shots=5, form="b"))
    assert protocol_hash(_task([], shots=5)) != protocol_hash(_task([], shots=4))
    assert template_hash(_task([], form="a")) != template_hash(_task([], form="b"))


def test_a_task_without_questions_or_with_duplicate_ids_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one question"):
        run_task(_task([], count=0))
    with pytest.raises(ValueError, match="two questions have the id 'i1'"):
        run_task(_task([])._replace(ids=["i0", "i1", "i1"]))


def test_the_template_hash_changes_with_the_number_of_shots() -> None:
    assert (
        template_hash(_task([], shots=5))
        == template_hash(_task([], shots=5))
        != template_hash(_task([], shots=4))
    )


def test_mean_has_the_standard_error_of_statistics_stdev() -> None:
    values = [0.5, 2.0, 1.25, 9.0]
    found = mean(values)
    assert found.value == pytest.approx(statistics.mean(values))
    assert found.stderr == pytest.approx(statistics.stdev(values) / 2)
    assert mean([3.0]).count == 1
    assert math.isnan(mean([3.0]).stderr)
    assert math.isnan(mean([]).value)


def test_ratio_divides_the_sums_and_equals_mean_for_equal_sizes() -> None:
    assert ratio([1.0, 8.0], [1.0, 4.0]).value == pytest.approx(9 / 5)
    equal = ratio([1.0, 2.0, 6.0], [1.0, 1.0, 1.0])
    assert equal == pytest.approx(Figure(*mean([1.0, 2.0, 6.0])))
    assert math.isnan(ratio([], []).value)
    assert math.isnan(ratio([1.0], [2.0]).stderr)


def test_a_ratio_to_zero_and_one_of_nothing_are_nan() -> None:
    for numerators, denominators in (([1.0], [0.0]), ([1.0, 2.0], [0.0, 0.0]), ([], [])):
        figure = ratio(numerators, denominators)
        assert math.isnan(figure.value)
        assert figure.count == len(numerators)


def test_the_mean_of_an_iterator_is_that_of_its_values() -> None:
    assert mean(iter([1.0, 2.0, 3.0])) == mean([1.0, 2.0, 3.0])
