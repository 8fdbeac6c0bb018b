"""Generated tuning rows are read like those of any data set; train and held-out rows share no question."""

from __future__ import annotations

import pytest

from data_pipes.embedded import tuning_rows
from data_pipes.rows.records import read_conversations, read_preferences, read_prompts, read_unpaired

READERS = {
    "instructions": read_conversations,
    "preferences": read_preferences,
    "unpaired": read_unpaired,
    "prompts": read_prompts,
}


@pytest.mark.parametrize("name", READERS)
def test_generated_rows_are_read_like_a_data_set(name: str) -> None:
    rows = getattr(tuning_rows, name)(60, key=0)
    assert len(rows) == 60
    assert len(list(READERS[name](rows))) == 60
    assert rows == getattr(tuning_rows, name)(60, key=0)
    assert rows != getattr(tuning_rows, name)(60, key=1)


def test_unpaired_rows_are_the_two_answers_of_preferences() -> None:
    pairs = [row.values for row in tuning_rows.preferences(20, key=0)]
    rows = [row.values for row in tuning_rows.unpaired(40, key=0)]
    for label, side in ((True, "chosen"), (False, "rejected")):
        found = {(row["prompt"], row["completion"]) for row in rows if row["label"] is label}
        assert found == {(pair["prompt"], pair[side]) for pair in pairs}
    assert len(tuning_rows.unpaired(7, key=0)) == 7
    assert tuning_rows.unpaired(0, key=0) == []


@pytest.mark.parametrize("name", READERS)
def test_no_question_is_in_both_parts(name: str) -> None:
    parts = [
        {row.values["prompt"] for row in getattr(tuning_rows, name)(150, key=key, part=part)}
        for key, part in ((0, "train"), (1, "held_out"))
    ]
    assert not parts[0] & parts[1]


def test_a_fifth_of_the_instructions_is_about_documentation() -> None:
    rows = tuning_rows.instructions(100, key=0)
    assert sum(row.values["family"] == "documentation" for row in rows) == 20
    questions = [row.values for row in rows if row.values["family"] == "documentation"]
    summaries = {summary.name: summary.text for summary in tuning_rows.read_summaries("train")}
    for row in questions:
        if row["prompt"].startswith("What does "):
            assert (
                summaries[row["prompt"].removeprefix("What does ").removesuffix(" do?")] == row["completion"]
            )
        else:
            assert row["completion"] in summaries


def test_join_questions_have_two_forms_of_answer_and_one_is_rewarded() -> None:
    rows = [row.values for row in tuning_rows.instructions(300, key=0) if row.values["family"] == "join"]
    forms = [" and " in row["completion"] for row in rows]
    assert 0.3 < sum(forms) / len(forms) < 0.7
    prompts = [row.values for row in tuning_rows.prompts(50, key=0, families=["join"])]
    assert all(" and " in row["answer"] for row in prompts)


def test_the_chosen_answer_is_right_and_the_rejected_one_another() -> None:
    rows = tuning_rows.preferences(80, key=0, documentation=0.5)
    right = {x.values["prompt"]: x.values["answer"] for x in tuning_rows.prompts(2000, key=0)}
    asked = [row.values for row in rows if row.values["prompt"] in right]
    assert len(asked) > 0
    assert all(values["chosen"] == right[values["prompt"]] for values in asked)
    assert sum(row.values["family"] == "documentation" for row in rows) == 40
    for row in rows:
        assert row.values["chosen"] != row.values["rejected"]


def test_zero_rows_are_no_rows() -> None:
    assert tuning_rows.instructions(0, key=0) == []
    assert tuning_rows.prompts(0, key=0) == []


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="'train' or 'held_out'"):
        tuning_rows.prompts(1, key=0, part="test")
