"""The search for a C++ compiler; this machine has one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.run import compiler


def test_on_this_machine_no_tool_is_missing() -> None:
    assert compiler.missing_tool() is None


def test_the_notice_estimates_the_compile_time_of_this_processor() -> None:
    assert compiler.estimate_time("cpu", "AVX512", 2) == "1 to 2 minutes on this processor (AVX512, 2 cores)"
    assert compiler.estimate_time("cpu", "AVX2", 16) == "1 to 2 minutes on this processor (AVX2, 16 cores)"
    assert compiler.estimate_time("cpu", "DEFAULT", 1) == "1 to 3 minutes on this processor (DEFAULT, 1 core)"
    assert compiler.estimate_time("cuda", "AVX2", 2) == "1 to 2 minutes"
    capability = torch.backends.cpu.get_cpu_capability()
    assert f"({capability}, " in compiler.first_step_notice(torch.device("cpu"))


def test_a_missing_compiler_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    message = compiler.missing_tool()
    assert message is not None
    assert message.startswith("no C++ compiler was found (g++)")
    assert "runs eagerly" in message


def test_a_broken_compiler_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "c++broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert "c++broken" in (compiler.missing_tool() or "")


def test_missing_python_headers_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h" in (compiler.missing_tool() or "")
