"""Examples in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.teach.trace import Trace, run_trace


def test_a_process_that_takes_too_long_or_fails_says_so() -> None:
    assert run_trace(["merge_pair"], 0.01) == [Trace("merge_pair", (), "no result after 0.01 s")]
    assert run_trace(["merge"])[0].error.startswith("ValueError: unknown exercise 'merge'")


def test_a_trace_is_of_ours_wherever_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTRO2LLM_WITH", str(tmp_path))
    (traced,) = run_trace(["merge_pair"])
    assert traced.error == ""
    assert [step.visits for step in traced.steps] == [4, 1, 3]
