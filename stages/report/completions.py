"""Select the completions of a run that its page shows: some steps, and some completions of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

STEPS = 24
"""Most steps whose completions are shown."""
PER_STEP = 16
"""Most completions of a step that are shown."""
PROMPTS = 4
"""Most prompts whose completions are followed over the steps."""
TEXT = 600
"""Most characters of a text that are shown."""


class Answer(NamedTuple):
    """A completion and its rewards.

    Fields:
        prompt, completion: texts; a model wrote the second.
        rewards: name -> reward; NaN if it was not scored; {} for a sample of a stage without rewards.
    """

    prompt: str
    completion: str
    rewards: Mapping[str, float]


class Selection(NamedTuple):
    """Completions that are shown.

    Fields:
        rows: (step, Answer), in the order of the steps.
        timelines: of the prompts that return most often, (step, Answer) in the order of the steps.
        steps, completions: all that the log has.
    """

    rows: tuple[tuple[int, Answer], ...] = ()
    timelines: tuple[tuple[tuple[int, Answer], ...], ...] = ()
    steps: int = 0
    completions: int = 0


def select_steps(lines: Iterable[tuple[int, list[Answer]]]) -> Selection:
    """Select steps at equal distances, the first and the last among them, and the completions of each.

    Of a step with more than PER_STEP completions, those with the highest and the lowest rewards are kept. The
    timelines follow the PROMPTS prompts that most of the selected steps have, with the first completion in
    each.

    Args:
        lines: step and completions, read once; steps increase.

    Returns:
        Selection; empty without lines.
    """
    kept: list[tuple[int, list[Answer]]] = []
    stride, count, total = 1, 0, 0
    last: tuple[int, list[Answer]] | None = None
    for number, line in enumerate(lines):
        count, total, last = count + 1, total + len(line[1]), line
        if number % stride == 0:
            kept.append(line)
        if len(kept) > STEPS:
            kept, stride = kept[::2], 2 * stride
    if last is not None and kept[-1][0] != last[0]:
        kept = [*kept[: STEPS - 1], last]
    rows = [(step, answer) for step, answers in kept for answer in select_extremes(answers)]
    return Selection(tuple(rows), _follow_prompts(kept), count, total)


def select_extremes(answers: list[Answer]) -> list[Answer]:
    """Return at most PER_STEP completions: those with the highest and lowest rewards; NaN is lowest."""
    if len(answers) <= PER_STEP:
        return answers
    ordered = sorted(answers, key=_rank_of)
    return [*ordered[: PER_STEP // 2], *ordered[-PER_STEP // 2 :]]


def total_reward(answer: Answer) -> float:
    """Add up the rewards of a completion; one that is missing counts as 0, and NaN is the sum of none.

    Example:
        >>> total_reward(Answer("1 + 1?", "2", {"right": 1.0, "short": float("nan")}))
        1.0
    """
    scored = [reward for reward in answer.rewards.values() if not math.isnan(reward)]
    return sum(scored) if scored else math.nan


def clip_text(text: str) -> str:
    """Cut a long text, and say how much is missing.

    Example:
        >>> clip_text("a" * 700)[-24:]
        'a… (100 characters more)'
    """
    if len(text) <= TEXT:
        return text
    return f"{text[:TEXT]}… ({len(text) - TEXT:,} characters more)"


def _rank_of(answer: Answer) -> float:
    """Key that sorts the highest reward first, and completions without one last."""
    reward = total_reward(answer)
    return math.inf if math.isnan(reward) else -reward


def _follow_prompts(kept: list[tuple[int, list[Answer]]]) -> tuple[tuple[tuple[int, Answer], ...], ...]:
    """The first completion of the most frequent prompts at each step; () if no prompt returns."""
    counts = Counter(prompt for _, answers in kept for prompt in dict.fromkeys(a.prompt for a in answers))
    most = [prompt for prompt, times in counts.most_common(PROMPTS) if times > 1]
    return tuple(tuple(_follow(prompt, kept)) for prompt in most)


def _follow(prompt: str, kept: list[tuple[int, list[Answer]]]) -> Iterator[tuple[int, Answer]]:
    """The first completion of a prompt at each step that has it."""
    for step, answers in kept:
        if same := [answer for answer in answers if answer.prompt == prompt]:
            yield step, same[0]
