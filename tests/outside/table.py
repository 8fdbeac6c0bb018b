"""Collects the FORMS of all modules of this folder."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.outside.form import Form


def all_forms() -> tuple[Form, ...]:
    """All forms, in alphabetical order of the modules."""
    names = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("form", "table")
    )
    modules = [importlib.import_module(f"tests.outside.{name}") for name in names]
    return tuple(form for module in modules for form in getattr(module, "FORMS", ()))
