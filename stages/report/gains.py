"""Read what a stage gained: figures and answers before its first step and after its last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes import files

PAIRS = 24
"""Most questions whose answers are shown."""


class Gain(NamedTuple):
    """A figure before and after a stage.

    Fields:
        name: the task, or the stage of the demo.
        before, after: the figure.
        low, high: 95% confidence interval of after - before.
        count: questions; 0 if the file does not say, as those of earlier versions.
    """

    name: str
    before: float
    after: float
    low: float
    high: float
    count: int  # type: ignore[assignment]


class Pair(NamedTuple):
    """Answers to the same question before and after a stage.

    Fields:
        task, question: the task's name and the question, or its prompt.
        before, after: what the model wrote.
        score_before, score_after: the scores of both.
    """

    task: str
    question: str
    before: str
    after: str
    score_before: float
    score_after: float


def read_gains(before: Path, after: Path) -> tuple[tuple[Gain, ...], tuple[Pair, ...]]:
    """Compare two evaluations of the same questions.

    Args:
        before, after: folders of two evaluations.

    Returns:
        Gains by task, and the first PAIRS questions, those whose score changed first.

    Raises:
        ValueError: if the evaluations have no task in common, or a line is damaged.
    """
    from stages.evaluate.compare import compare
    from stages.evaluate.record import read_samples

    first, second = read_samples(before), read_samples(after)
    gains = [Gain(d.task, d.first, d.second, d.low, d.high, d.count) for d in compare(first, second)]
    pairs = [pair for task in first if task in second for pair in _pair(task, first[task], second[task])]
    pairs.sort(key=lambda pair: pair.score_before == pair.score_after)
    return tuple(gains), tuple(pairs[:PAIRS])


def read_demo_gains(path: Path) -> tuple[Gain, ...]:
    """Read the demo's results by stage; () if there is no such file.

    Raises:
        ValueError: if the file is not JSON.
        KeyError: if a stage lacks a number.
    """
    if not path.is_file():
        return ()
    gains = []
    for name, row in files.read_json(path).items():
        before, after, low, high = (float(row[part]) for part in ("before", "after", "low", "high"))
        gains.append(Gain(name, before, after, low, high, int(row.get("count", 0))))
    return tuple(gains)


def _pair(task: str, first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Pairs of the questions that both answered with a text."""
    later = {sample["id"]: sample for sample in second}
    pairs = []
    for sample in first:
        other = later.get(sample["id"])
        if other is None or not isinstance(sample.get("output"), str):
            continue
        question = str(sample.get("question") or sample.get("prompt", ""))
        texts = (question, sample["output"], str(other.get("output", "")))
        pairs.append(Pair(task, *texts, float(sample["score"]), float(other["score"])))
    return pairs
