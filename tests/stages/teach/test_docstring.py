"""Units of docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from stages.teach.docstring import split_docstring, translate_docstring
from tests.rules.source import ROOT

TEXT = """Computes the mean.

    A paragraph of
    two lines.

        y = Σ x / n
        n   the number of elements, at least one

    Shape letters: B rows.

    Args:
        x, y: [B] float, with a long
            description.
        z: [B].

    Returns:
        One number.

        mean: []
            nats.

    Steps:
        1. Add all, in
            float32.
        2. Divide.

    Edge cases: an empty row gives NaN,
    and no warning.

    Raises:
        ValueError: for a wrong shape.

    Example:
        Two numbers:

        >>> mean("\\n")
        The result of a doctest.

    Source: A. Author 2020, equation 1.
    """

UNITS = [
    ("Computes the mean.", ""),
    ("A paragraph of two lines.", ""),
    ("y = Σ x / n\nn   the number of elements, at least one", ""),
    ("B rows.", "Shape letters:"),
    ("x, y: [B] float, with a long description.", "Args:"),
    ("One number.", "Returns:"),
    ("mean: [] nats.", "Returns:"),
    ("Add all, in float32.", "Steps:"),
    ("Divide.", "Steps:"),
    ("an empty row gives NaN, and no warning.", "Edge cases:"),
    ("ValueError: for a wrong shape.", "Raises:"),
    ("Two numbers:", "Example:"),
    ("A. Author 2020, equation 1.", "Source:"),
]


def test_the_units_of_every_part() -> None:
    assert [tuple(unit) for unit in split_docstring(TEXT)] == UNITS


def test_a_translation_keeps_the_structure() -> None:
    catalogue = {text: text.upper() for text, _ in UNITS} | {"Args:": "参数：", "Source:": "来源："}
    result = translate_docstring(TEXT, catalogue)
    assert "    参数：\n        X, Y: [B] FLOAT, WITH A LONG DESCRIPTION.\n        z: [B].\n" in result
    assert "        1. ADD ALL, IN FLOAT32.\n        2. DIVIDE.\n" in result
    assert "        Y = Σ X / N\n        N   THE NUMBER OF ELEMENTS, AT LEAST ONE\n" in result
    assert '        >>> mean("\\n")\n        The result of a doctest.\n' in result
    assert "    来源：A. AUTHOR 2020, EQUATION 1.\n    " in result
    assert "    Edge cases: AN EMPTY ROW GIVES NAN, AND NO WARNING.\n" in result
    assert result.startswith("COMPUTES THE MEAN.\n\n    A PARAGRAPH OF TWO LINES.\n")


def test_wrapped_lines_are_indented_as_in_the_source() -> None:
    catalogue = {
        "Divide.": "word " * 9 + "end",
        "ValueError: for a wrong shape.": "ValueError: " + "word " * 9,
    }
    lines = translate_docstring(TEXT, catalogue, width=40).split("\n")
    assert (
        lines[lines.index("        2. word word word word word word") + 1] == "            word word word end"
    )
    assert (
        lines[lines.index("        ValueError: word word word word") + 1]
        == "            word word word word word"
    )


def test_a_docstring_of_one_line() -> None:
    assert translate_docstring("Adds.", {"Adds.": "相加。"}) == "相加。"


def _docstrings(path: Path) -> list[str]:
    text = path.read_text(encoding="utf8")
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [ast.get_docstring(node, clean=False) or "" for node in nodes]


@pytest.mark.parametrize("folder", ["pure/loss", "pure/nn", "data_pipes", "stages"])
def test_without_a_translation_every_docstring_of_ours_stays_as_it_is(folder: str) -> None:
    texts = [text for path in (ROOT / folder).glob("*.py") for text in _docstrings(path)]
    assert len(texts) > 50
    for text in texts:
        assert translate_docstring(text, {}) == text


def test_no_indented_line_of_a_step_or_an_argument_is_taken_for_a_formula() -> None:
    for path in (ROOT / "pure/loss").glob("*.py"):
        for text in _docstrings(path):
            for unit in split_docstring(text):
                assert "\n" not in unit.text or unit.place not in ("Args:", "Steps:", "Raises:", "Fields:")
