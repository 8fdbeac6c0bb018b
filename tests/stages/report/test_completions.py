"""Completions of some steps are shown: the first, the last, and the extremes of each."""

from __future__ import annotations

import pytest

from stages.report.completions import (
    PER_STEP,
    PROMPTS,
    STEPS,
    Answer,
    clip_text,
    select_extremes,
    select_steps,
)


def lines(count: int, width: int = 2) -> list[tuple[int, list[Answer]]]:
    return [
        (step, [Answer(f"p{i}", f"c{step}", {"r": float(i)}) for i in range(width)])
        for step in range(1, count + 1)
    ]


@pytest.mark.parametrize("count", [1, 2, STEPS, STEPS + 1, 7 * STEPS + 3])
def test_steps_are_few_and_include_the_first_and_the_last(count: int) -> None:
    chosen = select_steps(lines(count))
    steps = list(dict.fromkeys(step for step, _ in chosen.rows))
    assert steps == sorted(steps)
    assert steps[0] == 1
    assert steps[-1] == count
    assert min(count, STEPS // 2) <= len(steps) <= STEPS
    assert (chosen.steps, chosen.completions) == (count, 2 * count)


def test_no_line_gives_no_completions() -> None:
    assert select_steps([]) == ((), (), 0, 0)


def test_timelines_follow_the_prompts_that_return() -> None:
    same = Answer("again", "x", {"r": 1.0})
    other = [Answer(f"once {i}", "y", {"r": 0.0}) for i in range(3)]
    chosen = select_steps([(1, [other[0], same]), (2, [other[1]]), (3, [same, other[2], same])])
    assert chosen.timelines == (((1, same), (3, same)),)
    assert select_steps([(1, [other[0]]), (2, [other[1]])]).timelines == ()
    many = [Answer(f"p{i}", "x", {}) for i in range(PROMPTS + 2)]
    timelines = select_steps([(0, many), (5, many)]).timelines
    assert [timeline[0][1].prompt for timeline in timelines] == [f"p{i}" for i in range(PROMPTS)]


def test_highest_and_lowest_rewards_are_kept() -> None:
    ((_, answers),) = lines(1, width=3 * PER_STEP)
    kept = [answer.rewards["r"] for answer in select_extremes(answers)]
    assert kept[0] == 3 * PER_STEP - 1
    assert kept[-1] == 0
    assert len(kept) == PER_STEP
    missing = Answer("p", "c", {"r": float("nan"), "s": 2.0})
    assert select_extremes([missing]) == [missing]
    unscored = [Answer(f"u{i}", "c", {"r": float("nan")}) for i in range(PER_STEP)]
    assert next(answer.rewards["r"] for answer in select_extremes([*unscored, *answers])) == 3 * PER_STEP - 1


def test_a_long_text_says_how_much_is_missing() -> None:
    assert clip_text("short") == "short"
    assert clip_text("x" * 1600).endswith("x… (1,000 characters more)")
