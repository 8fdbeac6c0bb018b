"""`Form`: one case of a file that another library writes and that our code must read alike, or refuse.

`theirs` lets the other library write into an empty folder and returns the value it reads from there; `ours`
reads the same folder and must return the same value, or raise an error of one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch


class Form(NamedTuple):
    """One case.

    Fields:
        kind: the group that it is counted in: "template", "row", "tokenizer", "configuration", "weights",
            "adapter", ...
        name: unique within its kind.
        writer: who wrote it: a library, or "published" for fields copied from a public description.
        theirs: empty folder -> the expected value (None where the form is refused).
        ours: the same folder -> the value that our code reads.
        refused: pattern that our error must match; "" if the form must be read.
        tolerance: largest difference of numbers, relative to 1 + |expected|; 0 compares exactly.
    """

    kind: str
    name: str
    writer: str
    theirs: Callable[[Path], Any]
    ours: Callable[[Path], Any]
    refused: str = ""
    tolerance: float = 0.0


class Verdict(NamedTuple):
    """Verdict on a `Form`.

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
    """Judge one form in an empty folder."""
    expected = form.theirs(folder)
    try:
        value = form.ours(folder)
    except CLEAR as error:
        text = str(error)
        if not form.refused:
            return Verdict("error", f"expected {expected!r:.300}, got {type(error).__name__}: {text}")
        if len(text.strip().splitlines()) > 1:
            return Verdict("error", f"more than one line: {text}")
        if not re.search(form.refused, text):
            return Verdict("error", f"expected a message that matches {form.refused!r}, got: {text}")
        return Verdict("refused", text)
    except Exception as error:
        return Verdict("error", f"{type(error).__name__}: {error}")
    if form.refused:
        return Verdict("different", f"expected a refusal that matches {form.refused!r}, got {value!r:.300}")
    if found := difference(value, expected, form.tolerance):
        return Verdict("different", found)
    return Verdict("right")


def difference(ours: Any, theirs: Any, tolerance: float = 0.0, place: str = "") -> str:
    """Describe the first place where two values differ; "" if they are equal."""
    if isinstance(theirs, Mapping):
        if not isinstance(ours, Mapping) or ours.keys() != theirs.keys():
            return f"{place or 'value'}: expected the keys {sorted(map(str, theirs))}, got {ours!r:.300}"
        for key in theirs:
            if found := difference(ours[key], theirs[key], tolerance, f"{place}/{key}"):
                return found
        return ""
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
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if found := difference(a, b, tolerance, f"{place}[{i}]"):
                return found
        return ""
    if isinstance(theirs, float) and isinstance(ours, float | int):
        if abs(ours - theirs) <= tolerance * (1 + abs(theirs)):
            return ""
        return f"{place}: expected {theirs}, got {ours}"
    return "" if ours == theirs else f"{place or 'value'}: expected {theirs!r:.300}, got {ours!r:.300}"
