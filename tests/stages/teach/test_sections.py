"""Parts of a docstring."""

from __future__ import annotations

from stages.teach.sections import find_formula, find_section, find_sentences

DOCSTRING = """Adds two rows.

Why it exists.

    y = a + b
    z = 2 y

with a, b in [0, 1].

Args:
    a, b: [B] float.

Returns:
    [B], the sum:
        both.

Steps:
    1. Add a
        and b.
    2. Double.

Edge cases: none.

Example:
    >>> 1 + 1
    2
"""


def test_a_section_is_without_its_title_and_indentation() -> None:
    assert find_section(DOCSTRING, "Args") == "a, b: [B] float."
    assert find_section(DOCSTRING, "Returns") == "[B], the sum:\n    both."
    assert find_section(DOCSTRING, "Edge cases") == "none."
    assert find_section(DOCSTRING, "Raises") == ""


def test_the_formula_goes_up_to_the_sections() -> None:
    assert find_formula(DOCSTRING) == "y = a + b\nz = 2 y\n\nwith a, b in [0, 1]."


def test_without_a_formula_the_result_is_the_definition() -> None:
    assert find_formula("Adds.\n\nWhy.\n\nArgs:\n    a: x.\n\nReturns:\n    The sum.\n") == "The sum."
    assert find_formula("Adds.\n\nWhy.") == "Adds.\n\nWhy."


def test_sentences_are_in_one_line_each() -> None:
    assert find_sentences(DOCSTRING) == {1: "Add a and b.", 2: "Double."}
    assert find_sentences("Adds.") == {}
