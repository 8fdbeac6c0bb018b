"""The page is written where it was asked for; at a run's end an error is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stages.report.write import name_runs, write_at_end, write_report
from tests.stages.report.test_record import write_run


def test_the_page_goes_into_the_folder_of_one_run_or_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    assert write_report([one]) == one / "report.html"
    assert write_report([one, two]) == Path("report.html")
    assert write_report([one], "new/page.html") == Path("new/page.html")
    for path in (one / "report.html", tmp_path / "report.html", tmp_path / "new" / "page.html"):
        assert path.read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(ValueError, match="--output: expected a file"):
        write_report([one], tmp_path)


def test_runs_have_the_shortest_names_that_differ() -> None:
    assert name_runs(["/x/a", "/x/b"]) == ["a", "b"]
    assert name_runs(["/x/a/r", "/x/b/r", "/r"]) == ["a/r", "b/r", "//r"]
    with pytest.raises(ValueError, match="/x/a is given twice; give each run once"):
        name_runs(["/x/a", "/x/b", "/x/../x/a"])


def test_at_the_end_of_a_run_it_says_one_line_and_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    write_at_end(write_run(tmp_path / "r"), lines.append)
    assert lines == []
    assert (tmp_path / "r" / "report.html").exists()
    write_at_end(tmp_path / "none", lines.append)
    line = lines.pop()
    assert line.startswith("warning: report.html was not written (FileNotFoundError: ")
    assert line.endswith("the run is not affected")
    monkeypatch.setitem(sys.modules, "bokeh", None)
    write_at_end(tmp_path / "r", lines.append)
    (line,) = lines
    assert "pip install 'intro2llm[report]' brings what draws it" in line
