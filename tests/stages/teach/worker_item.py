"""A function for `data_pipes.workers`."""

from __future__ import annotations

import importlib
import inspect


def find_file(address: str) -> str | None:
    """Return the source file of a function, given as "module:name"."""
    module, _, name = address.partition(":")
    return inspect.getsourcefile(getattr(importlib.import_module(module), name))
