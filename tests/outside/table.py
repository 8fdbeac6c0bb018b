"""Every outside form, from the modules of this folder that have FORMS."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.outside.form import Form


def every() -> tuple[Form, ...]:
    """All forms, in the order of kinds' modules."""
    names = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("form", "table")
    )
    modules = [importlib.import_module(f"tests.outside.{name}") for name in names]
    return tuple(form for module in modules for form in getattr(module, "FORMS", ()))
