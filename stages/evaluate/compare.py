"""Compare two models on the same questions: difference of their scores, confidence interval, p-value.

Both models answered the same questions with the same random numbers, so the differences are paired: the
difficulty of a question cancels, and far fewer questions are needed than with a separate set for each model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pure.plural import count_noun
from stages.evaluate.task import Sample, mean

Z_95 = 1.959963984540054
"""Half-width of a 95% confidence interval, in standard errors of a normal distribution."""

_WINDOWS = " (of perplexity one --max_length: without it each model's is the length of its own training rows)"


class Difference(NamedTuple):
    """Difference between two models on one task.

    Fields:
        task: its name.
        count: questions that both answered.
        first, second: mean scores on them.
        value: second - first.
        low, high: 95% confidence interval of the difference; of shares in -first .. 1 - first.
        p: two-sided p-value of no difference.
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
    """Compare the samples of two evaluations.

        d_i = second_i - first_i,      value = mean(d),      value ± 1.96 s(d) / √n

    Args:
        first, second: samples by task, from `stages.evaluate.record.read_samples`.

    Returns:
        One Difference for each task that both have; the score of perplexity is bits per byte of a document,
        weighted by its bytes.

    Raises:
        ValueError: if they share no task, differ in how a question was asked (prompts, windows, examples,
            sampling), or share fewer than two questions.

    Edge cases: if no score differs, the interval is [0, 0] and p is 1. Several programs for one problem count
        as one question, whose score is their mean. For scores of 0 and 1, p is McNemar's exact test, which is
        valid for few questions too, and the interval ends where the second share would be 0 or 1; otherwise
        p and the interval assume a normal distribution: with fewer than about thirty questions the interval
        is too narrow.

    Source: Miller, "Adding Error Bars to Evals", 2024, section 4.2; McNemar 1947.
    """
    shared = [name for name in first if name in second]
    if not shared:
        raise ValueError(
            f"compare: no task in common: {', '.join(first) or 'none'} and {', '.join(second) or 'none'}; "
            "evaluate both models on the same tasks"
        )
    return [_compare_task(name, first[name], second[name]) for name in shared]


def format_table(differences: Sequence[Difference]) -> str:
    """Format one line per task.

    Example:
        >>> print(format_table([Difference("mmlu", 100, 0.25, 0.30, 0.05, 0.01, 0.09, 0.0156, 7, 2)]))
        task           first   second  difference  95% interval          p      higher  lower  of
        mmlu          0.2500   0.3000     +0.0500  +0.0100 .. +0.0900    0.0156      7      2  100
    """
    lines = [
        f"{'task':<12} {'first':>7} {'second':>8}  {'difference':>10}  {'95% interval':<20}  "
        f"{'p':<6}  higher  lower  of"
    ]
    for d in differences:
        span = f"{d.low:+.4f} .. {d.high:+.4f}"
        lines.append(
            f"{d.task:<12} {d.first:>7.4f} {d.second:>8.4f}  {d.value:>+10.4f}  {span:<20}  {d.p:>6.4f}  "
            f"{d.higher:>6} {d.lower:>6}  {d.count:,}"
        )
    return "\n".join(lines)


def mcnemar(better: int, worse: int) -> float:
    """Return the p-value of McNemar's exact test.

    If both models were equally good, each would be the better one on half of the questions that differ.

        p = min(1, 2 Σ_{i <= min(b, w)} C(b + w, i) / 2^(b + w))

    Args:
        better, worse: b and w, questions that only the second, and only the first got right; >= 0.

    Returns:
        Probability in (0, 1] of a split at least as uneven.

    Steps:
        1. Number n of questions on which the models differ; the others say nothing.
        2. One tail: of the 2^n ways in which the n questions could have been divided, count those that give
            the second model at most min(b, w), in integers (`math.comb`).
        3. Twice that for both tails, divided by 2^n, and at most 1.

    Edge cases: no question differs, or b = w: 1.

    Example:
        Of 2⁵ = 32 splits of 5 questions, 2 are as uneven as 5 to 0.

        >>> mcnemar(5, 0)
        0.0625
        >>> mcnemar(0, 0)
        1.0

    Source: McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions", 1947, in
    its exact form, without the normal approximation.
    """
    # 1. Differing questions.
    n = better + worse
    # 2. One tail.
    tail = sum(math.comb(n, i) for i in range(min(better, worse) + 1))
    # 3. Both tails.
    return min(1.0, 2 * tail / 2**n)


def _compare_task(name: str, first: Sequence[Sample], second: Sequence[Sample]) -> Difference:
    """Compare one task."""
    samples = _pair_samples(name, first, second)
    are_shares = all(sample["score"] in (0.0, 1.0) for pair in samples for sample in pair)
    pairs = _merge_problems(samples)
    weights = [float(one.get("bytes", 1.0)) for one, _ in pairs]
    mean_weight = math.fsum(weights) / len(weights)
    first_scores, second_scores = (
        [pair[side]["score"] * weight / mean_weight for pair, weight in zip(pairs, weights, strict=True)]
        for side in (0, 1)
    )
    differences = [b - a for a, b in zip(first_scores, second_scores, strict=True)]
    stderr = _paired_stderr(differences, weights, mean_weight)
    first_mean, second_mean = mean(first_scores).value, mean(second_scores).value
    value = second_mean - first_mean
    higher = sum(two["score"] > one["score"] for one, two in pairs)
    lower = sum(two["score"] < one["score"] for one, two in pairs)
    low, high = value - Z_95 * stderr, value + Z_95 * stderr
    if are_shares:
        low, high = max(low, -first_mean), min(high, 1 - first_mean)
    if all(sample["score"] in (0.0, 1.0) for pair in pairs for sample in pair):
        p = mcnemar(higher, lower)
    else:
        p = math.erfc(abs(value) / stderr / math.sqrt(2)) if stderr else float(value == 0)
    return Difference(
        task=name,
        count=len(pairs),
        first=first_mean,
        second=second_mean,
        value=value,
        low=low,
        high=high,
        p=p,
        higher=higher,
        lower=lower,
    )


def _pair_samples(
    name: str, first: Sequence[Sample], second: Sequence[Sample]
) -> list[tuple[Sample, Sample]]:
    """Pair the samples of the questions that both have; they must be asked in the same way."""
    others = {sample["id"]: sample for sample in second}
    pairs = [(sample, others[sample["id"]]) for sample in first if sample["id"] in others]
    if len(pairs) < 2:
        raise ValueError(
            f"compare: the two evaluations of {name} share {count_noun(len(pairs), 'question')}; expected at "
            "least 2: evaluate both models on the same data"
        )
    for one, two in pairs:
        if (one.get("protocol"), one.get("item")) != (two.get("protocol"), two.get("item")):
            raise ValueError(
                f"compare: {name} asked {one['id']} in different ways; evaluate both models with the same "
                f"options and the same data{_WINDOWS if 'nats' in one else ''}"
            )
    return pairs


def _merge_problems(pairs: Sequence[tuple[Sample, Sample]]) -> list[tuple[Sample, Sample]]:
    """Merge the samples of one problem, which are not independent: their mean score is one score."""
    groups: dict[str, list[tuple[Sample, Sample]]] = {}
    for one, two in pairs:
        groups.setdefault(str(one.get("problem", one["id"])), []).append((one, two))
    merged = []
    for members in groups.values():
        one, two = members[0]
        first = mean([sample["score"] for sample, _ in members]).value
        second = mean([sample["score"] for _, sample in members]).value
        merged.append((one | {"score": first}, two | {"score": second}))
    return merged


def _paired_stderr(differences: Sequence[float], weights: Sequence[float], mean_weight: float) -> float:
    """Return the standard error of the weighted mean of differences, by linearization."""
    average = math.fsum(differences) / len(differences)
    residuals = [d - average * weight / mean_weight for d, weight in zip(differences, weights, strict=True)]
    n = len(residuals)
    return math.sqrt(math.fsum(x * x for x in residuals) / (n - 1) / n)
