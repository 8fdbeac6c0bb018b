"""Embedded lessons: rows that the readers of data sets read, whose parts share no question."""

from __future__ import annotations

import pytest

from data_pipes import lessons
from data_pipes.messages import conversations, preferences, prompts

MAKERS = {"instructions": conversations, "preferences": preferences, "questions": prompts}


@pytest.mark.parametrize("name", MAKERS)
def test_rows_are_read_as_any_data_set(name: str) -> None:
    rows = getattr(lessons, name)(60, key=0)
    assert len(rows) == 60
    assert len(list(MAKERS[name](rows))) == 60
    assert rows == getattr(lessons, name)(60, key=0)
    assert rows != getattr(lessons, name)(60, key=1)


@pytest.mark.parametrize("name", MAKERS)
def test_no_question_is_in_both_parts(name: str) -> None:
    parts = [{row.values["prompt"] for row in getattr(lessons, name)(150, key=key, part=part)}
             for key, part in ((0, "train"), (1, "held_out"))]  # fmt: skip
    assert not parts[0] & parts[1]


def test_a_fifth_is_about_documentation() -> None:
    rows = lessons.instructions(100, key=0)
    assert sum(row.values["family"] == "documentation" for row in rows) == 20
    questions = [row.values for row in rows if row.values["family"] == "documentation"]
    known = {found.name: found.text for found in lessons.summaries()}
    for row in questions:
        if row["prompt"].startswith("What does "):
            assert known[row["prompt"].removeprefix("What does ").removesuffix(" do?")] == row["completion"]
        else:
            assert row["completion"] in known


def test_pairs_prefer_the_right_answer() -> None:
    for row in lessons.preferences(80, key=0):
        assert row.values["chosen"] != row.values["rejected"]


def test_nothing_asked_nothing_made() -> None:
    assert lessons.instructions(0, key=0) == []
    assert lessons.questions(0, key=0) == []


def test_another_part_is_refused() -> None:
    with pytest.raises(ValueError, match="'train' or 'held_out'"):
        lessons.questions(1, key=0, part="test")
