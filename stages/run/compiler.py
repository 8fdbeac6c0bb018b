"""Check that steps can be compiled on this machine, and estimate how long that takes."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch

from pure.plural import count_noun

CONSEQUENCE = "so the step is not compiled: it runs eagerly, at about half its speed"


def first_step_notice(device: torch.device, backend: str = "torch") -> str:
    """Returns the line for the user before the first step, which compiles: how long that takes."""
    if backend == "jax":
        return (
            "lowering the step to JAX and compiling it: up to a minute; a resumed run lowers it in a moment"
        )
    span = estimate_time(device.type, torch.backends.cpu.get_cpu_capability(), os.cpu_count() or 1)
    return f"compiling the step: {span}, a few seconds if it was compiled here before"


def estimate_time(device: str, capability: str, cores: int) -> str:
    """Estimates the time of the first compilation, as measured; on a CPU it is mostly the C++ compiler's.

    Args:
        device: "cpu" or "cuda".
        capability: result of `torch.backends.cpu.get_cpu_capability()`.
        cores: number of cores of the machine.

    Returns:
        A time span, as text.

    Example:
        >>> estimate_time("cpu", "AVX2", 2)
        '1 to 3 minutes on this processor (AVX2, 2 cores)'
    """
    if device != "cpu":
        return "1 to 2 minutes"
    has_wide_vectors = any(name in capability for name in ("AVX512", "SVE"))
    if cores >= 8:
        span = "up to a minute" if has_wide_vectors else "1 to 2 minutes"
    else:
        span = "1 to 2 minutes" if has_wide_vectors else "1 to 3 minutes"
    return f"{span} on this processor ({capability}, {count_noun(cores, 'core')})"


def missing_tool() -> str | None:
    """Checks that this machine has what torch.compile needs on a CPU: a C++ compiler and Python's headers.

    Returns:
        A line for the user that names what is missing, and the fix; None if nothing is missing.
    """
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    try:
        subprocess.run([name, "--version"], capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return f"no C++ compiler was found ({name}), {CONSEQUENCE}; install one (apt install g++), or set CXX"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return (
            f"Python's header files were not found (Python.h), {CONSEQUENCE}; install them "
            f"(apt install python3-dev)"
        )
    return None
