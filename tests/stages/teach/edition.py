"""Editions for the tests: folders with one file, in which one function has a given body."""

from __future__ import annotations

from pathlib import Path

from stages.teach.cheats import replace_body
from stages.teach.course import Exercise, exercises_of_module, find_exercise
from stages.teach.files import find_answer, read_original
from stages.teach.source import leave_out

NORM = "rms_norm"
"""An exercise whose body is short; its parameters are x, scale and eps."""

OURS = """\
upcast = x.to(torch.promote_types(x.dtype, torch.float32))
return (upcast * (upcast.square().mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype) * scale
"""
"""Its body."""


def write_answer(folder: Path, body: str, *, top: str = "", name: str = NORM) -> Exercise:
    """Write our module with another body for one function, no other solved, and lines after its imports."""
    exercise = find_exercise(name)
    text = read_original(exercise.module)
    others = {
        each.function: each.name
        for each in exercises_of_module(exercise.module)
        if each.name != exercise.name
    }
    text = leave_out(text, others, "docstring")
    text = replace_body(text, exercise.function, body.rstrip() + "\n")
    if top:
        text = text.replace("import torch\n", f"import torch\n{top}\n", 1)
    path = find_answer(folder, exercise.module)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf8")
    return exercise
