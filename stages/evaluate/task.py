"""What an evaluation is: items that are asked, answers that are kept, and figures that are made of them.

Every evaluation is a Task, so that one runner (`stages.evaluate.record`) writes all of them down, goes on
after a kill, and compares two models answer by answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from data_pipes.digest import hash_json

Sample = dict[str, Any]
"""One answer, plain JSON: "id", "prompt", "output", "score", and what else the task keeps."""


OWN = ("form", "prefix", "ends", "sandbox")
"""Entries of a task's `about` that are the model's or the machine's own: a chat template, ids, which walls
stand."""


class Figure(NamedTuple):
    """A number of a report.

    Fields:
        value: the estimate.
        stderr: its standard error; NaN where none can be told.
        count: of what it was made.
    """

    value: float
    stderr: float
    count: int  # type: ignore[assignment]


class Task(NamedTuple):
    """An evaluation, ready to be run.

    Fields:
        name: what results call it.
        ids: of the items, in order; no two alike.
        answer: (numbers of items, at most `chunk` of them) -> one Sample each, in that order; the same
            whatever the chunk, up to rounding.
        summary: all Samples, in the order of the items -> Figures by name, the main one first.
        about: what decided how all items are asked, plain JSON; a hash of it stands in every sample.
        chunk: items that are answered at a time, and written down together.
        items: a digest of each item (`digest`), so that answers to other questions of the same name are told
            apart.
    """

    name: str
    ids: Sequence[str]
    answer: Callable[[Sequence[int]], list[Sample]]
    summary: Callable[[Sequence[Sample]], dict[str, Figure]]
    about: Mapping[str, Any]
    chunk: int
    items: Sequence[str]


class Report(NamedTuple):
    """What came of a Task.

    Fields:
        figures: by name, the main one first.
        samples: one of each item.
    """

    figures: dict[str, Figure]
    samples: list[Sample]


def finish(
    task: Task,
    known: Mapping[str, Sample] | None = None,
    *,
    keep: Callable[[list[Sample]], Any] | None = None,
) -> Report:
    """Answers the items that have no answer yet, or one to another question of the same name, and sums up.

    Args:
        task: what to run.
        known: answers of an earlier run, by id.
        keep: is given each chunk of new answers as soon as it is complete.

    Returns:
        Report.

    Raises:
        ValueError: if there is nothing to ask, or two items have one name.
    """
    if not task.ids:
        raise ValueError(f"{task.name}: there is nothing to ask; expected at least one item")
    if len(set(task.ids)) < len(task.ids):
        twice = next(name for number, name in enumerate(task.ids) if name in task.ids[:number])
        raise ValueError(f"{task.name}: two items are called {twice!r}; give each a name of its own")
    found = answered(task, known or {})
    marks = {"template": template_hash(task), "protocol": protocol_hash(task)}
    open_ = [number for number, name in enumerate(task.ids) if name not in found]
    for start in range(0, len(open_), task.chunk):
        part = open_[start : start + task.chunk]
        new = [
            {"task": task.name, "id": task.ids[i], **sample, "item": task.items[i], **marks}
            for i, sample in zip(part, task.answer(part), strict=True)
        ]
        found |= {sample["id"]: sample for sample in new}
        if keep is not None:
            keep(new)
    samples = [found[name] for name in task.ids]
    return Report(task.summary(samples), samples)


def answered(task: Task, known: Mapping[str, Sample]) -> dict[str, Sample]:
    """Those of the known answers, by id, that are to the questions of the task."""
    return {
        name: known[name]
        for name, item in zip(task.ids, task.items, strict=True)
        if name in known and known[name].get("item") == item
    }


def template_hash(task: Task) -> str:
    """Twelve hexadecimal digits that change with whatever decides how items are asked."""
    return digest(dict(task.about))


def protocol_hash(task: Task) -> str:
    """As `template_hash`, without what is the model's own: two models asked alike have the same."""
    return digest({name: value for name, value in task.about.items() if name not in OWN})


def digest(*parts: Any) -> str:
    """Twelve hexadecimal digits of plain JSON.

    Example:
        >>> digest("a question", ["x", "y"]) == digest("a question", ("x", "y")) != digest("a question", ["x", "z"])
        True
    """
    return hash_json(parts)[:12]


def mean(values: Iterable[float]) -> Figure:
    """The mean with its standard error, s / √n with s² over n-1.

    Example:
        >>> mean([1.0, 0.0, 1.0, 1.0])
        Figure(value=0.75, stderr=0.25, count=4)
    """
    found = list(values)
    n = len(found)
    if not n:
        return Figure(math.nan, math.nan, 0)
    middle = math.fsum(found) / n
    if n == 1:
        return Figure(middle, math.nan, 1)
    return Figure(middle, math.sqrt(math.fsum((x - middle) ** 2 for x in found) / (n - 1) / n), n)


def ratio(tops: Sequence[float], bottoms: Sequence[float]) -> Figure:
    """The ratio of two sums over the same items, with its standard error by linearisation.

        r = Σ t / Σ b,      stderr² = n / (n-1) · Σ (t_i - r b_i)² / (Σ b)²

    Items of different size, such as documents, weigh as much as they are long; what varies are the items.

    Args:
        tops, bottoms: one of each item.

    Returns:
        Figure.

    Example:
        >>> ratio([2.0, 4.0], [1.0, 2.0])
        Figure(value=2.0, stderr=0.0, count=2)

    Source: Cochran, Sampling Techniques, 1977, equation 6.13, an infinite population.
    """
    n, whole = len(tops), math.fsum(bottoms)
    if not n or not whole:
        return Figure(math.nan, math.nan, n)
    found = math.fsum(tops) / whole
    if n == 1:
        return Figure(found, math.nan, 1)
    spread = math.fsum((t - found * b) ** 2 for t, b in zip(tops, bottoms, strict=True))
    return Figure(found, math.sqrt(n / (n - 1) * spread) / whole, n)
