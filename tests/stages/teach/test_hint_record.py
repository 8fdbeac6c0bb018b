"""The record of hints."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.teach.hint_record import (
    HINTS,
    RESET,
    Given,
    back_up_hints,
    count_hints,
    read_hints,
    record_hint,
    select_current,
    write_hints,
)


def test_hints_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / HINTS).parent.mkdir()
    assert read_hints(tmp_path) == {}
    hints = {"dpo_loss": (Given(1, 0, "2025-01-01T00:00:00+00:00"), Given(2, 3, "2025-01-02T00:00:00+00:00"))}
    write_hints(tmp_path, hints)
    assert read_hints(tmp_path) == hints


def test_a_reset_lets_the_hints_start_again_and_keeps_their_count(tmp_path: Path) -> None:
    (tmp_path / HINTS).parent.mkdir()
    for level, step in ((1, 0), (2, 1), (RESET, 0), (1, 0)):
        record_hint(tmp_path, "dpo_loss", level, step)
    record_hint(tmp_path, "gae", RESET, 0)
    assert count_hints(tmp_path) == {"dpo_loss": 2}
    assert [each.level for each in select_current(read_hints(tmp_path)["dpo_loss"])] == [1]


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": [1]}', '{"a": [{"level": "x"}]}', "\xff"])
def test_a_damaged_record_is_told_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / HINTS).parent.mkdir()
    for number in (1, 2):
        (tmp_path / HINTS).write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"hints\.json"):
            read_hints(tmp_path)
        backup = back_up_hints(tmp_path)
        assert backup == f"{HINTS}.damaged-{number}"
        assert (tmp_path / backup).read_bytes() == text.encode("latin-1")
        assert read_hints(tmp_path) == {}
