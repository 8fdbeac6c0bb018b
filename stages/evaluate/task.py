"""Evaluations: questions, their answers (samples), and the figures that summarize them.

Every evaluation is a Task, so that one runner (`stages.evaluate.record`) saves all of them, resumes them
after a kill, and compares two models question by question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from data_pipes.digest import hash_json

Sample = dict[str, Any]
"""One answered question, plain JSON: "id", "prompt", "output", "score", and further entries of the task."""

MODEL_ENTRIES = ("form", "prefix", "ends", "sandbox")
"""Entries of a task's `about` that depend on the model or machine: chat template, ids, isolation layers."""


class Figure(NamedTuple):
    """A number of a report.

    Fields:
        value: the estimate.
        stderr: its standard error; NaN if there is none.
        count: number of questions (or groups of questions) that it is computed from.
    """

    value: float
    stderr: float
    count: int  # type: ignore[assignment]


class Task(NamedTuple):
    """An evaluation, ready to run.

    Fields:
        name: name of the task in the results.
        ids: ids of the questions, in order, all different.
        answer: (numbers of questions, at most `chunk` of them) -> one Sample each, in that order;
            independent of the chunk, up to rounding.
        summary: all Samples, in the order of the questions -> Figures by name, the main one first.
        about: everything that determines prompts and answers, plain JSON; each sample has a hash of it.
        chunk: number of questions that are answered at a time, and saved together.
        digests: `digest` of each question, so that a saved answer is not reused for another question with the
            same id.
    """

    name: str
    ids: Sequence[str]
    answer: Callable[[Sequence[int]], list[Sample]]
    summary: Callable[[Sequence[Sample]], dict[str, Figure]]
    about: Mapping[str, Any]
    chunk: int
    digests: Sequence[str]


class Report(NamedTuple):
    """Result of a Task.

    Fields:
        figures: figures by name, the main one first.
        samples: one per question.
    """

    figures: dict[str, Figure]
    samples: list[Sample]


def run_task(
    task: Task,
    saved: Mapping[str, Sample] | None = None,
    *,
    save: Callable[[list[Sample]], None] | None = None,
) -> Report:
    """Answer the questions of a task that have no saved answer, and summarize all answers.

    Args:
        task: the task to run.
        saved: samples of an earlier run, by id; those of another question with the same id are not used.
        save: called with each chunk of new samples.

    Returns:
        Report.

    Raises:
        ValueError: if there is no question, or two questions have the same id.

    Example:
        >>> def answer(numbers):
        ...     return [{"score": float(i % 2)} for i in numbers]
        >>> summary = lambda samples: {"accuracy": mean([sample["score"] for sample in samples])}
        >>> run_task(Task("parity", "abcd", answer, summary, {}, 2, "abcd")).figures["accuracy"].value
        0.5
    """
    if not task.ids:
        raise ValueError(f"{task.name}: expected at least one question, got none; is the data empty?")
    if len(set(task.ids)) < len(task.ids):
        twice = next(name for number, name in enumerate(task.ids) if name in task.ids[:number])
        raise ValueError(f"{task.name}: two questions have the id {twice!r}; give each its own")
    samples = reusable_samples(task, saved or {})
    hashes = {"template": template_hash(task), "protocol": protocol_hash(task)}
    unanswered = [number for number, name in enumerate(task.ids) if name not in samples]
    for start in range(0, len(unanswered), task.chunk):
        chunk = unanswered[start : start + task.chunk]
        new = [
            {"task": task.name, "id": task.ids[i], **sample, "item": task.digests[i], **hashes}
            for i, sample in zip(chunk, task.answer(chunk), strict=True)
        ]
        samples |= {sample["id"]: sample for sample in new}
        if save is not None:
            save(new)
    ordered = [samples[name] for name in task.ids]
    return Report(task.summary(ordered), ordered)


def reusable_samples(task: Task, saved: Mapping[str, Sample]) -> dict[str, Sample]:
    """Return the saved samples, by id, that answer the task's own questions."""
    return {
        name: saved[name]
        for name, own in zip(task.ids, task.digests, strict=True)
        if name in saved and saved[name].get("item") == own
    }


def template_hash(task: Task) -> str:
    """Return a hash of `about`, twelve hexadecimal digits: it changes with the prompts and the decoding."""
    return digest(dict(task.about))


def protocol_hash(task: Task) -> str:
    """Return `template_hash` without the model's own entries: equal for two models with the same options."""
    return digest({name: value for name, value in task.about.items() if name not in MODEL_ENTRIES})


def digest(*parts: Any) -> str:
    """Return twelve hexadecimal digits of the SHA-256 of plain JSON.

    Example:
        >>> digest("a question", ["x", "y"]) == digest("a question", ("x", "y"))
        True
        >>> digest("a question", ["x", "y"]) == digest("a question", ["x", "z"])
        False
    """
    return hash_json(parts)[:12]


def mean(values: Iterable[float]) -> Figure:
    """Return the mean with its standard error.

    Questions are a sample of all that could be asked. The standard error says how far the mean of another
    sample of this size would be.

        mean = Σ x / n,     s² = Σ (x - mean)² / (n - 1),     stderr = s / √n

    Args:
        values: n numbers x, such as scores of questions.

    Returns:
        Figure(mean, stderr, n), in the unit of the values.

    Steps:
        1. Count the values; of none, both numbers are NaN.
        2. Mean, the sum by `math.fsum`, which rounds once; of one value, the error is NaN.
        3. Variance over n - 1, by `math.fsum` too, and the root of variance / n.

    Edge cases: equal values have the error 0.

    Example:
        >>> mean([1.0, 0.0, 1.0, 1.0])
        Figure(value=0.75, stderr=0.25, count=4)

    Source: Miller, "Adding Error Bars to Evals", 2024, section 2.
    """
    # 1. Count.
    values = list(values)
    n = len(values)
    if not n:
        return Figure(math.nan, math.nan, 0)
    # 2. Mean.
    average = math.fsum(values) / n
    if n == 1:
        return Figure(average, math.nan, 1)
    # 3. Standard error.
    variance = math.fsum((x - average) ** 2 for x in values) / (n - 1)
    return Figure(average, math.sqrt(variance / n), n)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Figure:
    """Return the ratio of two sums over the same questions, with its standard error by linearization.

        r = Σ a / Σ b,      stderr² = n / (n-1) · Σ (a_i - r b_i)² / (Σ b)²

    Questions of different size, such as documents, are weighted by their size.

    Args:
        numerators, denominators: a and b, one of each per question, such as nats and tokens of a document.

    Returns:
        Figure(r, stderr, n), in the unit of a per unit of b.

    Steps:
        1. Count the questions n, and sum b by `math.fsum`; if either is 0, both numbers are NaN.
        2. Ratio of the sums; of one question, the error is NaN.
        3. Sum of the squares of a_i - r b_i, by `math.fsum`, and the error from it.

    Edge cases: with all b equal to 1 it is `mean`.

    Raises:
        ValueError: if there are not as many numerators as denominators, and more than one question.

    Example:
        >>> ratio([2.0, 4.0], [1.0, 2.0])
        Figure(value=2.0, stderr=0.0, count=2)

    Source: Cochran, Sampling Techniques, 1977, equation 6.13, an infinite population.
    """
    # 1. Count and sum.
    n, total = len(numerators), math.fsum(denominators)
    if not n or not total:
        return Figure(math.nan, math.nan, n)
    # 2. Ratio.
    value = math.fsum(numerators) / total
    if n == 1:
        return Figure(value, math.nan, 1)
    # 3. Standard error.
    squares = math.fsum((a - value * b) ** 2 for a, b in zip(numerators, denominators, strict=True))
    return Figure(value, math.sqrt(n / (n - 1) * squares) / total, n)
