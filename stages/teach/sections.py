"""Parts of a docstring as text: the formula, the sections, the sentences of the steps."""

from __future__ import annotations

import re
import textwrap

TITLE = re.compile(
    r"^(Args|Fields|Returns|Yields|Steps|Edge cases|Raises|Examples?|Source):[ \n]", re.MULTILINE
)
"""Start of a section."""


def find_section(docstring: str, title: str) -> str:
    """Returns the text of a section without its indentation; "" if there is none.

    Args:
        docstring: without the indentation of the source, as `ast.get_docstring` returns it.
        title: of the section, such as "Returns".

    Example:
        >>> find_section("Adds.\\n\\nReturns:\\n    [B], the sum.\\n", "Returns")
        '[B], the sum.'
    """
    parts = TITLE.split(docstring)
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        if name == title:
            return textwrap.dedent(text).strip()
    return ""


def find_formula(docstring: str) -> str:
    """Returns the formula: the first indented block of the description, and the text up to the sections.

    A function without a formula is defined by its result: then it is the section Returns, and without that
    the whole description.

    Example:
        >>> find_formula("Doubles.\\n\\nWhy.\\n\\n    y = x + x\\n\\nfor any x.\\n\\nArgs:\\n    x: [B].\\n")
        'y = x + x\\n\\nfor any x.'
    """
    description = TITLE.split(docstring)[0].rstrip()
    block = re.search(r"\n\n(?= {4})", description)
    if block is None:
        return find_section(docstring, "Returns") or description
    lines = description[block.end() :].splitlines()
    return "\n".join(line.removeprefix("    ") for line in lines)


def find_sentences(docstring: str) -> dict[int, str]:
    """Finds the sentences of the numbered steps, each in one line without its number.

    Example:
        >>> find_sentences("F.\\n\\nSteps:\\n    1. Double\\n        x.\\n    2. Return it.\\n")
        {1: 'Double x.', 2: 'Return it.'}
    """
    parts = re.split(r"^(\d+)\. ", find_section(docstring, "Steps"), flags=re.MULTILINE)
    return {
        int(number): " ".join(text.split()) for number, text in zip(parts[1::2], parts[2::2], strict=True)
    }
