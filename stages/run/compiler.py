"""Whether steps can be compiled here."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

SO = "so the step is not compiled: it runs eagerly, at about half its speed"


def missing() -> str | None:
    """Says what torch.compile lacks for this machine's CPU, or None: a C++ compiler, and Python's header files.

    Returns:
        A line for a person.
    """
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    try:
        subprocess.run([name, "--version"], capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return f"no C++ compiler was found ({name}), {SO}; install one (apt install g++), or set CXX"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return f"Python's header files were not found (Python.h), {SO}; install them (apt install python3-dev)"
    return None
