"""Each session of a run is recorded, whatever ends it, and a disk that refuses does not end the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.run.sessions import NAME, read_sessions, record_session


def test_ends_are_recorded_in_order(tmp_path: Path) -> None:
    with record_session(tmp_path, print) as note_end:
        note_end("interrupted", 3, "SIGTERM")
    with pytest.raises(FloatingPointError), record_session(tmp_path, print):
        raise FloatingPointError("updates\nwere skipped")
    with (tmp_path / NAME).open("a") as file:
        file.write('{"started": 1.0}\n{"seconds": 2')  # killed while it wrote its end
    with record_session(tmp_path, print):
        running = read_sessions(tmp_path)
    one, two, killed, four = read_sessions(tmp_path)
    assert one[2:] == ("interrupted", 3, "SIGTERM")
    assert one.seconds is not None
    assert 0 <= one.seconds < 60
    assert two[2:] == ("failed", 0, "FloatingPointError: updates were skipped")
    assert killed == (1.0, None, "", 0, "")
    assert running[-1][1:] == (None, "", 0, "")
    assert four.status == "failed"
    assert read_sessions(tmp_path / "none") == []


def test_a_line_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    lines: list[str] = []
    with record_session(tmp_path / "none", lines.append) as note_end:
        note_end("complete", 1, "")
    assert len(lines) == 2
    assert lines[0].startswith("warning: ")
    assert lines[0].endswith("(No such file or directory); the run is not affected")
