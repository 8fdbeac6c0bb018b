"""Translate docstrings of this project to what Sphinx and napoleon read.

A docstring here is plain text: formulas are indented, code stands in single backticks, and a section may begin on
the line of its title ("Source: Shao 2024."). napoleon wants each title on a line of its own, and Sphinx wants
every `*`, `_` and `|` of a formula marked as literal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SECTIONS = (
    "Args",
    "Returns",
    "Yields",
    "Steps",
    "Edge cases",
    "Raises",
    "Example",
    "Source",
    "Fields",
)
"""Titles of sections."""

ENTRIES = ("Args", "Raises", "Fields")
"""Sections whose content is a list of entries, "name: text"."""

TITLE = re.compile(rf"^({'|'.join(SECTIONS)}):(?: +(.*))?$")
ENTRY = re.compile(r"^(\*{0,2}[A-Za-z_][\w.]*(?:, \*{0,2}[A-Za-z_][\w.]*)*): ?(.*)$")
NAMES = re.compile(r"^(?:\*{0,2}[A-Za-z_][\w.]*, ?)+$")
LIST_ITEM = re.compile(r"^(\d+\.|[-*]) +")
IDENTIFIER = re.compile(r"^[A-Za-z_]\w*(\.\w+)*$")
SOURCE_FILE = re.compile(r"^((?:pure|data_pipes|stages)(?:/\w+)+)\.py$")


def translate(lines: list[str]) -> list[str]:
    """Translate a docstring without common indentation to reStructuredText with napoleon's sections."""
    result: list[str] = []
    for title, content in split_sections(lines):
        body = translate_entries(content) if title in ENTRIES else translate_body(content)
        if title:
            result += [f"{title}:", *(f"    {line}" if line else "" for line in body), ""]
        else:
            result += body
    return result


def split_sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each section's title and its content without indentation; the text before the first has the title ""."""
    title, content, at_title = "", [], False
    for line in lines:
        if found := TITLE.match(line):
            yield title, remove_indentation(content)
            title, at_title = found[1], bool(found[2])
            content = [found[2]] if found[2] else []
        elif at_title and line and not line.startswith(" "):
            content.append(line)  # the paragraph that began beside the title
        elif at_title and line:
            content.append("" if content[-1] == "" else line.strip())
        else:
            at_title = False
            content.append(line)
    yield title, remove_indentation(content)


def remove_indentation(lines: list[str]) -> list[str]:
    """Remove the common indentation, and empty lines at both ends."""
    widths = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    width = min(widths, default=0)
    text = "\n".join(line[width:] if line.strip() else "" for line in lines).strip("\n")
    return text.split("\n") if text else []


def translate_entries(lines: list[str]) -> list[str]:
    """Translate a list of entries; the text of each keeps its indentation."""
    result: list[str] = []
    names = ""
    for line in lines:
        if NAMES.match(line) or (names and ":" not in line):
            names += line.strip() + " "  # names that take several lines
            continue
        line, names = names + (line.strip() if names else line), ""
        found = ENTRY.match(line)
        result.append(f"{found[1]}: {mark_inline(found[2])}".rstrip() if found else mark_line(line))
    return result


def translate_body(lines: list[str]) -> list[str]:
    """Translate paragraphs: indented ones are formulas and become literal blocks, doctests stay as they are."""
    result: list[str] = []
    in_list = False
    for paragraph in split_paragraphs(lines):
        first = paragraph[0]
        if first.lstrip().startswith(">>>"):
            result += paragraph
        elif first.startswith(" ") and not (in_list and LIST_ITEM.match(first.lstrip())):
            result += ["::", "", *(f"    {line}" for line in paragraph)]
        else:
            in_list = bool(LIST_ITEM.match(first))
            result += translate_paragraph(paragraph)
        result.append("")
    return result


def translate_paragraph(paragraph: list[str]) -> list[str]:
    """Translate a paragraph; lines that are indented within it, and belong to no list, are a formula."""
    if paragraph[0].startswith("|"):  # a table in Markdown, shown as it is
        return ["::", "", *(f"    {line}" for line in paragraph)]
    if LIST_ITEM.match(paragraph[0]) or not any(line.startswith("    ") for line in paragraph):
        return [mark_line(line) for line in paragraph]
    result: list[str] = []
    literal = False
    for line in paragraph:
        if line.startswith("    ") != literal:
            literal = not literal
            result += ["", "::", ""] if literal else [""]
        result.append(line if literal else mark_line(line))
    return result


def split_paragraphs(lines: list[str]) -> Iterator[list[str]]:
    """Yield the paragraphs, which empty lines separate."""
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line:
            paragraph.append(line)
        elif paragraph:
            yield paragraph
            paragraph = []


def mark_line(line: str) -> str:
    """Mark a line's text, and keep its indentation and the number or dash of a list."""
    text = line.lstrip()
    item = LIST_ITEM.match(text)
    head = item[0] if item else ""
    return line[: len(line) - len(text)] + head + mark_inline(text[len(head) :])


def mark_inline(text: str) -> str:
    """Make code in backticks a reference or a literal, and escape what has a meaning in reStructuredText.

    Example:
        >>> mark_inline("a * b_ is `x**2`, see `pure/loss/dpo.py`")
        'a \\\\* b\\\\_ is ``x**2``, see :py:mod:`pure/loss/dpo.py <pure.loss.dpo>`'
    """
    parts = re.split(r"`([^`]+)`", text)
    marked = []
    for i, part in enumerate(parts):
        if i % 2 == 0:
            marked.append(re.sub(r"([\\*|`_])", r"\\\1", part))
            continue
        before, after = parts[i - 1][-1:], parts[i + 1][:1]
        code = mark_code(part)
        marked.append(("\\ " if before.isalnum() else "") + code + ("\\ " if after.isalnum() else ""))
    return "".join(marked)


def mark_code(code: str) -> str:
    """Make a reference of a name or the path of a source file, and a literal of other code."""
    if found := SOURCE_FILE.match(code):
        return f":py:mod:`{code} <{found[1].replace('/', '.')}>`"
    if IDENTIFIER.match(code):
        return f":py:obj:`{code}`"
    return f"``{code}``"
