"""The history of `intro2llm chat`: lines come back in their order, in a file of the user alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.cli.history import KEPT, append_line, history_path, read_history


def test_lines_come_back_in_their_order_and_are_private(tmp_path: Path) -> None:
    path = history_path({"XDG_STATE_HOME": str(tmp_path / "state")})
    assert read_history(path) == []
    for line in ("one", "  zwei, 三\x0b", "\udcff"):
        append_line(path, line)
    assert read_history(path) == ["one", "  zwei, 三\x0b", "?"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_long_file_is_cut_to_its_newest_lines(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text("".join(f"{i}\n" for i in range(2 * KEPT + 1)))
    assert read_history(path) == [str(i) for i in range(KEPT + 1, 2 * KEPT + 1)]
    assert len(path.read_text().splitlines()) == KEPT


def test_a_relative_state_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = tmp_path / ".local/state/intro2llm/chat_history"
    assert history_path({"XDG_STATE_HOME": "here"}) == history_path({}) == expected
