"""Forms that come from outside: what another library wrote, what it means, and what we make of it.

One row of the table is a `Form`. `theirs` lets the other library write into an empty folder and returns what
that library makes of it; `ours` reads the same folder and must return the same, or refuse it in one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch


class Form(NamedTuple):
    """One form.

    Fields:
        kind: the group that it is counted in: "template", "row", "tokenizer", "configuration", "weights",
            "adapter", ...
        name: unique within its kind.
        writer: who wrote it: a library, or "published" for fields copied from a public description.
        theirs: empty folder -> the right value (None where the form is refused).
        ours: the same folder -> our value.
        refused: pattern that our error must match where refusing is right; "" where reading is.
        tolerance: largest difference of numbers, relative to 1 + |right|; 0 compares exactly.
    """

    kind: str
    name: str
    writer: str
    theirs: Callable[[Path], Any]
    ours: Callable[[Path], Any]
    refused: str = ""
    tolerance: float = 0.0


class Verdict(NamedTuple):
    """Verdict on a form.

    Fields:
        outcome: "right"; "refused" (in one line, as it should be); "different" (read, with another value than
            the right one, or read where it should be refused); "error" (refused where it should be read, or
            an error that is not one clear line).
        detail: what the user needs to see.
    """

    outcome: str
    detail: str = ""


OUTCOMES = ("right", "refused", "different", "error")

CLEAR = (ValueError, TypeError, FileNotFoundError, FileExistsError, ImportError)
"""Errors of ours that the command line shows as one line."""


def judge(form: Form, folder: Path) -> Verdict:
    """Judges one form in an empty folder."""
    right = form.theirs(folder)
    try:
        value = form.ours(folder)
    except CLEAR as error:
        text = str(error)
        if not form.refused:
            return Verdict("error", f"expected {right!r:.300}, got {type(error).__name__}: {text}")
        if len(text.strip().splitlines()) > 1:
            return Verdict("error", f"more than one line: {text}")
        if not re.search(form.refused, text):
            return Verdict("error", f"expected a message that matches {form.refused!r}, got: {text}")
        return Verdict("refused", text)
    except Exception as error:
        return Verdict("error", f"{type(error).__name__}: {error}")
    if form.refused:
        return Verdict("different", f"expected a refusal that matches {form.refused!r}, got {value!r:.300}")
    if found := difference(value, right, form.tolerance):
        return Verdict("different", found)
    return Verdict("right")


def difference(ours: Any, theirs: Any, tolerance: float = 0.0, place: str = "") -> str:
    """Says where two values differ first, or "" where they do not."""
    if isinstance(theirs, Mapping):
        if not isinstance(ours, Mapping) or ours.keys() != theirs.keys():
            return f"{place or 'value'}: expected the keys {sorted(map(str, theirs))}, got {ours!r:.300}"
        return next(
            (d for k in theirs if (d := difference(ours[k], theirs[k], tolerance, f"{place}/{k}"))), ""
        )
    if isinstance(theirs, np.ndarray | torch.Tensor):
        a, b = (
            np.asarray(x.float() if isinstance(x, torch.Tensor) else x, np.float64) for x in (ours, theirs)
        )
        if a.shape != b.shape:
            return f"{place or 'value'}: expected shape {b.shape}, got {a.shape}"
        gap = float(np.max(np.abs(a - b) / (1 + np.abs(b)), initial=0.0))
        return "" if gap <= tolerance else f"{place or 'value'}: differs by {gap:.3g}"
    if isinstance(theirs, Sequence) and not isinstance(theirs, str | bytes):
        if not isinstance(ours, Sequence | np.ndarray) or len(ours) != len(theirs):
            return f"{place or 'value'}: expected {theirs!r:.300}, got {ours!r:.300}"
        pairs = enumerate(zip(ours, theirs, strict=True))
        return next((d for i, (a, b) in pairs if (d := difference(a, b, tolerance, f"{place}[{i}]"))), "")
    if isinstance(theirs, float) and isinstance(ours, float | int):
        return (
            ""
            if abs(ours - theirs) <= tolerance * (1 + abs(theirs))
            else f"{place}: expected {theirs}, got {ours}"
        )
    return "" if ours == theirs else f"{place or 'value'}: expected {theirs!r:.300}, got {ours!r:.300}"
