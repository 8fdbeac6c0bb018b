"""Docstrings become reStructuredText with napoleon's sections, and nothing in them is lost."""

from __future__ import annotations

import inspect

from docs.extensions.algorithms import read_algorithm
from docs.extensions.docstrings import mark_inline, translate
from docs.extensions.inventories import PROJECTS, inventory
from pure.loss.dpo import dpo_loss
from tests.rules.source import ROOT

TEXT = """Computes a loss.

With a formula:

    loss = |x|²  where x_ > 0

Args:
    a, b: [B] float,
        in nats.
    first, second,
        third: as in `pure/loss/dpo.py`.

Steps:
    1. One.
    2. Two of `x**2`.

Edge cases: none
    at all.

Source: Someone 2024,
equation 7."""

EXPECTED = """Computes a loss.

With a formula:

::

        loss = |x|²  where x_ > 0

Args:
    a, b: [B] float,
        in nats.
    first, second, third: as in :py:mod:`pure/loss/dpo.py <pure.loss.dpo>`.

Steps:
    1. One.
    2. Two of ``x**2``.

Edge cases:
    none
    at all.

Source:
    Someone 2024,
    equation 7."""


def test_sections_formulas_and_code_are_marked() -> None:
    lines = [line for line in translate(TEXT.split("\n")) if line]
    assert lines == [line for line in EXPECTED.split("\n") if line]


def test_a_real_docstring_keeps_its_words() -> None:
    text = inspect.getdoc(dpo_loss) or ""
    translated = "\n".join(translate(text.split("\n")))
    for word in text.replace("`", " ").split():
        assert word.rstrip(":,.") in translated.replace("\\", ""), word


def test_characters_of_formulas_are_escaped_and_words_beside_code_kept() -> None:
    assert mark_inline("a * b_c, `f`s") == "a \\* b\\_c, :py:obj:`f`\\ s"


def test_an_algorithm_has_its_formula_source_and_paper() -> None:
    found = read_algorithm(ROOT, ROOT / "pure/loss/dpo.py")
    assert found is not None
    (function,) = found.functions
    assert function.name == "dpo_loss"
    assert "ipo           (h̄ - 1/(2β))²" in "\n".join(function.formula)
    assert "equation 7" in function.source
    assert "Rafailov" in found.paper
    assert read_algorithm(ROOT, ROOT / "pure/loss/check.py") is None


def test_an_inventory_has_the_header_of_sphinx() -> None:
    assert inventory("torch", PROJECTS["torch"]).startswith(
        b"# Sphinx inventory version 2\n# Project: torch\n"
    )
