"""Two models on the same questions: how much their scores differ, and whether that could be chance.

Both were asked the same things with the same random numbers, so that the differences are taken question by
question: what makes a question hard for both cancels, and far fewer questions are needed than if each had its
own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stages.evaluate.task import Sample, mean

NORMAL = 1.959963984540054
"""Standard errors to either side that hold 95% of a normal distribution."""


class Difference(NamedTuple):
    """What changed from one model to the other.

    Fields:
        task: its name.
        count: questions that both answered.
        first, second: mean scores on them.
        value: second - first.
        low, high: 95% confidence interval of the difference.
        p: probability that chance alone makes it so large (two-sided).
        higher, lower: questions on which the second scores higher, and lower (of perplexity, lower is
            better).
    """

    task: str
    count: int  # type: ignore[assignment]
    first: float
    second: float
    value: float
    low: float
    high: float
    p: float
    higher: int
    lower: int


def compare(
    first: Mapping[str, Sequence[Sample]], second: Mapping[str, Sequence[Sample]]
) -> list[Difference]:
    """Compares the answers of two evaluations.

        d_i = second_i - first_i,      value = mean(d),      value ± 1.96 s(d) / √n

    Args:
        first, second: samples by task, as `stages.evaluate.record.read` gives them.

    Returns:
        One Difference for each task that both have; of perplexity the score is bits per byte by document,
        each weighing as many bytes as it has.

    Raises:
        ValueError: if they share no task, were asked in different ways (prompts, windows, examples, how
            answers are drawn), or share too few questions.

    Edge cases: where no score differs the interval is [0, 0] and p is 1. Several programs for one problem are
    one
        question, whose score is their mean. For scores of 0 and 1, p is McNemar's exact test, which holds for
        few questions too; otherwise it is that of the normal distribution, and so is the interval: with fewer
        than some thirty questions it is too narrow.

    Source: Miller, "Adding Error Bars to Evals", 2024, section 4.2; McNemar 1947.
    """
    shared = [name for name in first if name in second]
    if not shared:
        raise ValueError(
            f"compare: no task in common: {', '.join(first) or 'none'} and {', '.join(second) or 'none'}"
        )
    return [_pair(name, first[name], second[name]) for name in shared]


def table(found: Sequence[Difference]) -> str:
    """Writes one line a task.

    Example:
        >>> print(table([Difference("mmlu", 100, 0.25, 0.30, 0.05, 0.01, 0.09, 0.0156, 7, 2)]))
        task           first   second  difference  95% interval          p      higher  lower  of
        mmlu          0.2500   0.3000     +0.0500  +0.0100 .. +0.0900    0.0156      7      2  100
    """
    lines = [
        f"{'task':<12} {'first':>7} {'second':>8}  {'difference':>10}  {'95% interval':<20}  "
        f"{'p':<6}  higher  lower  of"
    ]
    for d in found:
        span = f"{d.low:+.4f} .. {d.high:+.4f}"
        lines.append(
            f"{d.task:<12} {d.first:>7.4f} {d.second:>8.4f}  {d.value:>+10.4f}  {span:<20}  {d.p:>6.4f}  "
            f"{d.higher:>6} {d.lower:>6}  {d.count:,}"
        )
    return "\n".join(lines)


def mcnemar(better: int, worse: int) -> float:
    """Computes how probable a split of the questions that differ is, were both models alike: McNemar's exact
    test.

        p = min(1, 2 Σ_{i <= min(b, w)} C(b + w, i) / 2^(b + w))

    Args:
        better, worse: questions that only the second, and only the first got right; >= 0.

    Returns:
        In (0, 1].

    Example:
        >>> mcnemar(5, 0)
        0.0625
        >>> mcnemar(0, 0)
        1.0
    """
    n = better + worse
    tail = sum(math.comb(n, i) for i in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**n)


def _pair(name: str, first: Sequence[Sample], second: Sequence[Sample]) -> Difference:
    """One task."""
    other = {sample["id"]: sample for sample in second}
    pairs = [(sample, other[sample["id"]]) for sample in first if sample["id"] in other]
    if len(pairs) < 2:
        raise ValueError(
            f"compare: the two evaluations of {name} share {len(pairs)} questions; expected at least two"
        )
    for one, two in pairs:
        if (one.get("protocol"), one.get("item")) != (two.get("protocol"), two.get("item")):
            raise ValueError(
                f"compare: {name} asked {one['id']} in different ways; evaluate both models with the same options and "
                "the same data"
            )
    pairs = _problems(pairs)
    weights = [float(one.get("bytes", 1.0)) for one, _ in pairs]
    whole = math.fsum(weights) / len(weights)
    ones, twos = (
        [pair[side]["score"] * weight / whole for pair, weight in zip(pairs, weights, strict=True)]
        for side in (0, 1)
    )
    spread = _spread([b - a for a, b in zip(ones, twos, strict=True)], weights, whole)
    before, after = mean(ones).value, mean(twos).value
    higher = sum(two["score"] > one["score"] for one, two in pairs)
    lower = sum(two["score"] < one["score"] for one, two in pairs)
    binary = all(sample["score"] in (0.0, 1.0) for pair in pairs for sample in pair)
    value = after - before
    normal = math.erfc(abs(value) / spread / math.sqrt(2)) if spread else float(value == 0)
    return Difference(
        name,
        len(pairs),
        before,
        after,
        value,
        value - NORMAL * spread,
        value + NORMAL * spread,
        mcnemar(higher, lower) if binary else normal,
        higher,
        lower,
    )


def _problems(pairs: Sequence[tuple[Sample, Sample]]) -> list[tuple[Sample, Sample]]:
    """Samples of one problem as one, with the mean of their scores: they are not independent of each
    other."""
    groups: dict[str, list[tuple[Sample, Sample]]] = {}
    for one, two in pairs:
        groups.setdefault(str(one.get("problem", one["id"])), []).append((one, two))
    return [
        (
            members[0][0] | {"score": mean([one["score"] for one, _ in members]).value},
            members[0][1] | {"score": mean([two["score"] for _, two in members]).value},
        )
        for members in groups.values()
    ]


def _spread(differences: Sequence[float], weights: Sequence[float], whole: float) -> float:
    """Standard error of the weighted mean of differences, by linearisation."""
    middle = math.fsum(differences) / len(differences)
    rest = [d - middle * weight / whole for d, weight in zip(differences, weights, strict=True)]
    n = len(rest)
    return math.sqrt(math.fsum(x * x for x in rest) / (n - 1) / n)
