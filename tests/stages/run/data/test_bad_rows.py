"""`stages.run.data.bad_rows`: bad rows stop a run or are skipped and listed, as --on_bad selects."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipes.types import BadRow
from stages.run.data import bad_rows

BAD = BadRow("here", "pass encoding=")


def test_a_bad_row_is_refused_with_the_flags_that_help() -> None:
    with pytest.raises(ValueError, match=r"^here: name its --encoding$"):
        bad_rows.refuse(BAD)
    with pytest.raises(ValueError, match="here: name its --encoding; or skip such rows with --on_bad skip"):
        bad_rows.handler("stop", None)(BAD)


def test_skipped_bad_rows_are_listed_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bad.jsonl"
    assert bad_rows.read(path) == []
    handle = bad_rows.handler("skip", path)
    for name in ("a", "b\u2028"):
        handle(BadRow(name, "why"))
    assert bad_rows.read(path) == [BadRow("a", "why"), BadRow("b\u2028", "why")]
    bad_rows.handler("skip", None)(BAD)
