"""The record of hints."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.teach.hint_record import HINTS, Given, back_up_hints, read_hints, write_hints


def test_hints_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / HINTS).parent.mkdir()
    assert read_hints(tmp_path) == {}
    hints = {"dpo_loss": (Given(1, 0, "2025-01-01T00:00:00+00:00"), Given(2, 3, "2025-01-02T00:00:00+00:00"))}
    write_hints(tmp_path, hints)
    assert read_hints(tmp_path) == hints


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
