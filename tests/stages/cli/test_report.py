"""`intro2llm report` writes the page of one or more runs, and refuses what is none in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stages.cli.main import main
from tests.stages.report.test_record import write_run


def test_it_prints_the_path_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(write_run(tmp_path / name)) for name in ("a", "b", "c")]
    page = tmp_path / "all.html"
    assert main(["report", *folders, "--output", str(page)]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (f"{page}\n", f"reading {', '.join(folders)}\n")
    assert "a, b, c" in page.read_text()
    assert main(["report", folders[0]]) == 0
    assert (tmp_path / "a" / "report.html").exists()


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(write_run(tmp_path / "a"))
    for words, message in (
        ([], "RUN is required"),
        ([str(tmp_path)], "expected the folder of a run, with config.json or metrics.jsonl"),
        ([str(tmp_path / "none")], "there is no such folder"),
        ([run, run], "is given twice"),
        ([run, "--outptu", "x"], "--outptu: unknown flag; did you mean --output?"),
        ([run, "-output", "x"], "unexpected '-output'; did you mean --output?"),
        ([run, "-o", "x"], "unexpected '-o'; a flag begins with --"),
    ):
        assert main(["report", *words]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("intro2llm report: ")
        assert message in line
    monkeypatch.setitem(sys.modules, "bokeh", None)
    assert main(["report", run]) == 1
    assert "report needs pip install 'intro2llm[report]'" in capsys.readouterr().err
