"""`stages.teach.watch`: a file that was saved is checked again, soon."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from stages.teach import watch as watching
from stages.teach.grader import open_server
from tests.stages.teach.edition import NORM, OURS, write_answer

LONGEST = 10.0
"""Seconds from saving to the result, on a machine that does much else; the benchmark prints what it is."""


def test_a_saved_file_is_checked_again_and_no_other(tmp_path: Path) -> None:
    exercise = write_answer(tmp_path, "return x")
    with open_server() as server:
        results = watching.watch(tmp_path, [exercise], server)
        assert next(results).kind == "value"
        for body, kind in ((OURS, ""), ("return (", "syntax"), ("return x", "value")):
            write_answer(tmp_path, body)
            start = time.monotonic()
            result = next(results)
            assert (result.exercise, result.kind) == (NORM, kind)
            assert time.monotonic() - start < LONGEST


def test_a_file_that_is_still_being_written_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exercise = write_answer(tmp_path, OURS)
    path = tmp_path / "pure" / "nn" / "norm.py"
    checked: list[str] = []
    monkeypatch.setattr(watching, "check", lambda folder, exercise, server: checked.append(path.read_text()))
    parts = itertools.chain(["a", "ab", "abc"], itertools.repeat(None))

    def write_more() -> None:
        part = next(parts)
        if part is not None:
            path.write_text(part)

    results = watching.watch(tmp_path, [exercise], None, pause=write_more)  # type: ignore[arg-type]
    next(results)
    next(results)
    assert checked[1:] == ["abc"]
