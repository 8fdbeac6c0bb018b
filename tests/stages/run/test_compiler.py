"""A missing compiler is reported; on this machine none is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.run import compiler


def test_with_a_compiler_nothing_is_missing() -> None:
    assert compiler.missing_tool() is None


def test_the_first_step_says_how_long_it_takes_here() -> None:
    assert compiler.estimate_time("cpu", "AVX512", 2) == "1 to 2 minutes on this processor (AVX512, 2 cores)"
    assert compiler.estimate_time("cpu", "AVX2", 16) == "1 to 2 minutes on this processor (AVX2, 16 cores)"
    assert compiler.estimate_time("cpu", "DEFAULT", 1) == "1 to 3 minutes on this processor (DEFAULT, 1 core)"
    assert compiler.estimate_time("cuda", "AVX2", 2) == "1 to 2 minutes"
    capability = torch.backends.cpu.get_cpu_capability()
    assert f"({capability}, " in compiler.first_step_notice(torch.device("cpu"))


def test_without_one_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    message = compiler.missing_tool()
    assert message is not None
    assert message.startswith("no C++ compiler was found (g++)")
    assert "runs eagerly" in message


def test_one_that_does_not_work_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "c++broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert "c++broken" in (compiler.missing_tool() or "")


def test_python_without_its_headers_cannot_compile_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler.sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h" in (compiler.missing_tool() or "")
