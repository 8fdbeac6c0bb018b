"""Docstrings and comments of source files."""

from __future__ import annotations

import ast

import pytest

from stages.teach.course import course_modules
from stages.teach.files import read_original
from stages.teach.prose import split_source, translate_source
from stages.teach.source import leave_out

TEXT = '''"""Module of means."""

SIZE = 3
"""Number of rows."""


class Mean(NamedTuple):
    """A mean."""

    x: int  # type: ignore[assignment]


def mean(x):
    """Computes the mean."""
    # 1. Add all numbers,
    # in float32.
    total = sum(x)  # never negative
    shape = x  # [B, T]
    # A remark.
    return total  # fmt: skip
'''


def test_units_of_a_module() -> None:
    assert [tuple(unit) for unit in split_source(TEXT)] == [
        ("Module of means.", ""),
        ("Number of rows.", ""),
        ("A mean.", "Mean"),
        ("Computes the mean.", "mean"),
        ("Add all numbers, in float32.", "mean"),
        ("never negative", "mean"),
        ("A remark.", "mean"),
    ]


def test_a_translated_module() -> None:
    catalogue = {
        "Number of rows.": "行数。",
        "Computes the mean.": "计算均值。",
        "Add all numbers, in float32.": "以 float32 将全部数相加。",
        "never negative": "不为负",
    }
    result = translate_source(TEXT, catalogue, width=24)
    assert '"""Module of means."""\n\nSIZE = 3\n"""行数。"""\n' in result
    assert "    # 1. 以 float32 将全\n    #    部数相加。\n    total = sum(x)  # 不为负\n" in result
    assert ast.dump(ast.parse(result)).count("Expr") == ast.dump(ast.parse(TEXT)).count("Expr")


@pytest.mark.parametrize("module", course_modules())
def test_a_module_without_translations_stays_as_it_is(module: str) -> None:
    text = leave_out(read_original(module), {}, "steps")
    assert translate_source(text, {"no such unit": "无"}) == text


@pytest.mark.parametrize("module", course_modules()[::6])
def test_code_and_doctests_stay_as_they_are(module: str) -> None:
    text = read_original(module)
    result = translate_source(text, {unit.text: f"译文 {unit.text}" for unit in split_source(text)})
    assert result.count("译文") >= len({unit.text for unit in split_source(text)})
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith(">>>")]
    assert [line.strip() for line in result.splitlines() if line.strip().startswith(">>>")] == examples
    trees = []
    for source in (text, result):
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = ""
        trees.append(ast.dump(tree))
    assert trees[0] == trees[1]
