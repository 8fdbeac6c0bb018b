"""Hints from the docstring and from running the reference."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.teach import messages
from stages.teach.course import COURSE, find_exercise
from stages.teach.edition import reset, start
from stages.teach.hint_record import HINTS, Given, read_hints
from stages.teach.hints import (
    BODY,
    CODE,
    FORMULA,
    NUMBERS,
    SENTENCE,
    SHAPES,
    choose_hint,
    describe_hint,
    get_step,
    give_hint,
    list_open_steps,
    read_reference,
)
from stages.teach.trace import Trace, run_trace
from stages.teach.translate import translate

NAMES = [exercise.name for chapter in COURSE for exercise in chapter.exercises]


@pytest.fixture(scope="module")
def traces() -> dict[str, Trace]:
    """A trace of each exercise, all from one process."""
    return {trace.exercise: trace for trace in run_trace(NAMES, 120.0)}


@pytest.fixture(scope="module")
def edition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edition, to be copied."""
    folder = tmp_path_factory.mktemp("edition") / "my"
    start(folder)
    return folder


@pytest.fixture
def my(edition: Path, tmp_path: Path) -> Path:
    """An edition of one test."""
    shutil.copytree(edition, tmp_path / "my")
    return tmp_path / "my"


@pytest.fixture
def hint(my: Path, traces: dict[str, Trace]) -> Callable[[str], list[str]]:
    """Gives the lines of the next hint on an exercise."""
    return lambda name: give_hint(my, name, trace=lambda names: [traces[each] for each in names]).splitlines()


def test_every_exercise_has_all_hints(traces: dict[str, Trace]) -> None:
    silent = (messages.HINT_NOT_EXECUTED, messages.HINT_NOTHING_ASSIGNED)
    shown = 0
    for name in NAMES:
        reference, trace = read_reference(find_exercise(name)), traces[name]
        assert trace.error == "", name
        steps = list_open_steps(reference, "")
        assert len(steps) >= 2, name
        for level in (FORMULA, BODY):
            assert "".join(describe_hint(reference, level, 0, trace, "en")).strip(), (name, level)
        for step in steps:
            for level in (SENTENCE, SHAPES, CODE):
                assert "".join(describe_hint(reference, level, step, trace, "en")).strip(), (
                    name,
                    step,
                    level,
                )
            if get_step(trace, step).variables:
                shown += 1
                assert "=" in describe_hint(reference, NUMBERS, step, trace, "en")[0], (name, step)
            else:
                assert describe_hint(reference, SHAPES, step, trace, "en")[0] in silent, (name, step)
    assert shown > 3 * len(NAMES)


def test_the_comments_of_code_are_in_the_learners_language() -> None:
    reference = read_reference(find_exercise("dpo_loss"))
    empty = Trace("dpo_loss", ())
    line = describe_hint(reference, CODE, 3, empty, "en")[0]
    assert line == "# 3. Averages [B]."
    translated = describe_hint(reference, CODE, 3, empty, "zh")
    assert translated[0] == f"# 3. {translate('Averages [B].', 'zh')}" != line
    assert translated[1:] == describe_hint(reference, CODE, 3, empty, "en")[1:]
    assert translated[0] in "\n".join(describe_hint(reference, BODY, 0, empty, "zh"))


def test_all_hints_on_dpo_loss(hint: Callable[[str], list[str]]) -> None:
    """β h = 0.1 · 2, so the loss is log(1 + e^-0.2) = 0.5981."""
    lines = hint("dpo_loss")
    assert lines[0] == "dpo_loss: hint 1 of 6, the formula:"
    assert lines[1] == "  h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)"
    assert lines[-1] == "hints taken: 1"
    assert hint("dpo_loss")[:2] == [
        "dpo_loss: hint 2 of 6 on step 1 of 6, what it does:",
        "  Check the arguments by `_check_arguments`, which takes those of this function.",
    ]
    assert hint("dpo_loss")[1:] == [f"  {messages.HINT_NOTHING_ASSIGNED}", "hints taken: 3"]
    assert hint("dpo_loss")[:3] == [  # 4 would say the same as 3
        "dpo_loss: hint 5 of 6 on step 1 of 6, its code:",
        "  # 1. Check.",
        "  _check_arguments(",
    ]
    later = [hint("dpo_loss") for _ in range(20)]
    assert later[8][:3] == [
        "dpo_loss: hint 2 of 6 on step 4 of 6, what it does:",
        "  h [B]: chosen minus rejected, clamped to ±LIMIT, so that one extreme pair cannot overflow; NaN where "
        "the difference is infinite.",
        "hints taken: 13",
    ]
    arguments = ["policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected"]
    assert later[9] == [
        "dpo_loss: hint 3 of 6 on step 4 of 6, shapes and types after it in the docstring's example:",
        "  difference: [1] float32",
        "  h: [1] float32",
        "  in the call with",
        *[f"    {name}: [1] float32" for name in arguments],
        "    beta: float",
        "hints taken: 14",
    ]
    assert later[10][1:5] == [
        "  difference = [2.0]",
        "  h = [2.0]",
        "  in the call with",
        "    policy_chosen = [-9.0]",
    ]
    assert later[14][1] == "  losses = [0.5981]"
    assert later[18][1] == (
        "  returned = DPO(losses=[0.5981], chosen_rewards=[0.1], rejected_rewards=[-0.1])"
    )
    assert later[19][-2] == "  return DPO(losses, (beta * chosen).detach(), (beta * rejected).detach())"
    body = hint("dpo_loss")
    assert body[:2] == ["dpo_loss: hint 6 of 6, the whole body:", "  # 1. Check."]
    assert body[-1] == "hints taken: 25"
    assert hint("dpo_loss") == body  # once counted


def test_hints_on_merge_pair_show_the_first_change_in_a_loop(hint: Callable[[str], list[str]]) -> None:
    lines = [hint("merge_pair") for _ in range(13)]
    assert (
        lines[0][1] == "  m symbols, m <= n; their concatenation is that of `symbols`."
    )  # there is no formula
    assert lines[3][1:3] == ["  result = []", "  i = 0"]
    assert lines[7][1:6] == [
        "  result = ['aa']",
        "  i = 2",
        "  in the call with",
        "    symbols = ('a', 'a', 'a', 'b')",
        "    pair = ('a', 'a')",
    ]
    assert lines[10][1:3] == ["  result: list(2 × str)", "  i: int"]
    assert lines[11][1:4] == [
        "  result = ['aa', 'a']",
        "  i = 3",
        f"  {messages.HINT_VISITS.format(visits=3)}",
    ]
    assert lines[12][-2] == "  return tuple(result)"


def test_hints_on_top_p_follow_the_learner(my: Path, hint: Callable[[str], list[str]]) -> None:
    """Probabilities 0.5, 0.3, 0.2: the sums before them are 0, 0.5 and 0.8; log 0.3 = -1.204."""
    assert [hint("top_p")[0][:30] for _ in range(4)][-1] == "top_p: hint 4 of 6 on step 1 o"
    path = my / "pure/generation/sample.py"
    text = path.read_text()
    place = text.index("    # 2.", text.index("def top_p"))
    path.write_text(text[:place] + "    before = logits\n" + text[place:])
    assert hint("top_p")[0] == "top_p: hint 2 of 6 on step 2 of 3, what it does:"
    assert hint("top_p")[1:4] == ["  share: [1] float32", "  kept: [3] bool", "  smallest: [1] float32"]
    assert hint("top_p")[1:4] == ["  share = [0.6]", "  kept = [True, True, False]", "  smallest = [-1.204]"]
    path.write_text(text)
    assert hint("top_p")[:3] == [
        "top_p: hint 5 of 6 on step 1 of 3, its code:",
        "  # 1. Sorted logits, and the sum of the probabilities before each: [..., V].",
        "  descending = logits.sort(-1, descending=True).values",
    ]


def test_hints_start_again_after_a_reset_and_are_not_counted_twice(
    my: Path, hint: Callable[[str], list[str]]
) -> None:
    first = [hint("sinusoidal") for _ in range(3)]
    reset(my, "sinusoidal")
    again = [hint("sinusoidal") for _ in range(4)]
    assert [lines[:-1] for lines in again[:3]] == [lines[:-1] for lines in first]
    assert [lines[-1] for lines in again] == ["hints taken: 3"] * 3 + ["hints taken: 4"]
    reset(my, "rope_frequencies")  # no hint was taken on it
    assert "rope_frequencies" not in read_hints(my)


def test_steps_are_open_where_no_code_follows_their_mark() -> None:
    reference = read_reference(find_exercise("top_p"))
    head = "def top_p(logits, p):\n    'Doc.'\n"
    assert list_open_steps(reference, f"{head}    raise Unsolved('top_p')\n") == [1, 2, 3]
    answer = f"{head}    # 1. a\n    x = 1\n    # 2. b\n    # 3. c\n    raise Unsolved('top_p')\n"
    assert list_open_steps(reference, answer) == [2, 3]
    assert list_open_steps(reference, answer.replace("# 2. b\n", "# 2. b\n    y = 2\n")) == [3]
    deleted = answer.replace("    raise Unsolved('top_p')\n", "\n# A comment.\ny = 1\n")
    assert list_open_steps(reference, deleted) == [2, 3]
    assert list_open_steps(reference, f"{head}    # 1. a\n    return 1\n") == [1, 2, 3]
    assert list_open_steps(reference, "x = 1\n") == [1, 2, 3]


def test_the_body_comes_after_the_code_of_every_open_step() -> None:
    formula = Given(FORMULA, 0, "")
    assert choose_hint([], [1, 2]) == (FORMULA, 0)
    assert choose_hint([formula], [1, 2]) == (SENTENCE, 1)
    assert choose_hint([formula, Given(NUMBERS, 1, "")], [1, 2]) == (CODE, 1)
    assert choose_hint([formula, Given(CODE, 1, "")], [1, 2]) == (SENTENCE, 2)
    assert choose_hint([formula, Given(CODE, 1, ""), Given(CODE, 2, "")], [1, 2]) == (BODY, 0)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lambda path: path.write_text("x = ("),
            "pure/loss/kto.py, line 1: '(' was never closed; the hints are",
        ),
        (lambda path: path.write_bytes(b"\xff"), "pure/loss/kto.py cannot be read: not UTF-8"),
        (lambda path: path.unlink(), "pure/loss/kto.py is missing; `intro2llm exercises start"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_hints_go_on(
    my: Path, hint: Callable[[str], list[str]], damage: Callable[[Path], None], line: str
) -> None:
    hint("kto_loss")
    damage(my / "pure/loss/kto.py")
    lines = hint("kto_loss")
    assert lines[0].startswith(line)
    assert lines[1] == "kto_loss: hint 2 of 6 on step 1 of 5, what it does:"


def test_a_damaged_record_is_kept_and_told(my: Path, hint: Callable[[str], list[str]]) -> None:
    hint("gae")
    (my / HINTS).write_text("{")
    lines = hint("gae")
    assert lines[0] == f"{HINTS} was damaged and is kept as {HINTS}.damaged-1; the hints start again"
    assert lines[1] == "gae: hint 1 of 6, the formula:"
    assert (my / f"{HINTS}.damaged-1").read_text() == "{"
    (given,) = read_hints(my)["gae"]
    assert given[:2] == (1, 0)
    assert given.time.endswith("+00:00")


def test_an_example_that_cannot_be_run_is_told(my: Path) -> None:
    def trace(names: list[str]) -> list[Trace]:
        return [Trace(name, (), "no result after 30 s") for name in names]

    lines = [give_hint(my, "gae", trace=trace).splitlines() for _ in range(4)]  # type: ignore[arg-type]
    assert lines[2][1] == "  the example could not be run (no result after 30 s)"
    assert lines[3][0].startswith("gae: hint 5 of 6 on step 1 of 5")


def test_mistakes_are_errors(my: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a student edition"):
        give_hint(my / "pure", "gae")
    with pytest.raises(ValueError, match="unknown exercise 'gea'; did you mean 'gae'"):
        give_hint(my, "gea")
