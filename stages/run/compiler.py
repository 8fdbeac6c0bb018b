"""Whether steps can be compiled here."""

from __future__ import annotations

import os
import shutil


def missing() -> str | None:
    """Says what torch.compile lacks on this machine's CPU, or None: it needs a C++ compiler."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    if any(name and shutil.which(name) for name in names):
        return None
    return "no C++ compiler was found (c++, g++ or clang++), so the step is not compiled and runs at half its speed"
