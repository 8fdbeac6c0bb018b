"""Check that steps can be compiled on this machine, and estimate how long that takes."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch

SO = "so the step is not compiled: it runs eagerly, at about half its speed"


def first_step(device: torch.device) -> str:
    """Returns the line before the first step: it compiles, and how long that takes."""
    span = expected(device.type, torch.backends.cpu.get_cpu_capability(), os.cpu_count() or 1)
    return f"compiling the step: {span}, a few seconds if it was compiled here before"


def expected(device: str, capability: str, cores: int) -> str:
    """Estimates the time of the first compilation, as measured; most of it is the C++ compiler's.

    Args:
        device: "cpu" or "cuda".
        capability: of `torch.backends.cpu.get_cpu_capability()`.
        cores: of the machine.

    Returns:
        A time span, as text.

    Example:
        >>> expected("cpu", "AVX2", 2)
        '1 to 3 minutes on this processor (AVX2, 2 cores)'
    """
    if device != "cpu":
        return "1 to 2 minutes"
    wide = any(name in capability for name in ("AVX512", "SVE"))
    if cores >= 8:
        span = "up to a minute" if wide else "1 to 2 minutes"
    else:
        span = "1 to 2 minutes" if wide else "1 to 3 minutes"
    return f"{span} on this processor ({capability}, {cores} core{'s' if cores > 1 else ''})"


def missing() -> str | None:
    """Returns a line on what torch.compile lacks on a CPU (a C++ compiler or Python's header files), or None.

    Returns:
        A line for the user.
    """
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    try:
        subprocess.run([name, "--version"], capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return f"no C++ compiler was found ({name}), {SO}; install one (apt install g++), or set CXX"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return (
            f"Python's header files were not found (Python.h), {SO}; install them (apt install python3-dev)"
        )
    return None
