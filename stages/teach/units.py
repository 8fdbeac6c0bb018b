"""Everything that a learner reads, as units of translation: messages, pages, source files by chapter."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

from stages.teach.course import COURSE, course_modules, module_path
from stages.teach.docstring import HEADINGS, WORD, Unit
from stages.teach.files import read_original
from stages.teach.markdown import split_markdown
from stages.teach.originals import plan_files
from stages.teach.prose import split_source
from stages.teach.translate import MESSAGES

SENTENCES = (
    "stages.teach.messages",
    "stages.teach.edition",
    "stages.cli.exercises",
    "stages.cli.exercises_mistakes",
)
"""Modules whose constants are sentences that a learner reads."""

PAGES = "chapters"
"""Name of the catalogue of the edition's pages."""


class Entry(NamedTuple):
    """A unit, and where it stands first.

    Fields:
        text: the English.
        file: path of its file.
        place: function and section, or heading, or name of the constant.
    """

    text: str
    file: str
    place: str


def collect_units() -> dict[str, tuple[Entry, ...]]:
    """Lists the entries of each catalogue, in the order in which a learner reads them.

    A unit that stands in several places is an entry of the first.

    Returns:
        Name of a catalogue -> its entries.
    """
    catalogues: dict[str, tuple[Entry, ...]] = {}
    known: set[str] = set()
    for name, entries in _list_units():
        new = {entry.text: entry for entry in reversed(entries) if entry.text not in known}
        order = dict.fromkeys(entry.text for entry in entries if entry.text in new)
        catalogues[name] = tuple(new[text] for text in order)
        known |= new.keys()
    return catalogues


def _list_units() -> Iterator[tuple[str, list[Entry]]]:
    """Catalogues with all their entries."""
    yield MESSAGES, [*_list_messages()]
    files = plan_files("en", "steps")
    pages = [path for path in files if path.endswith(".md")]
    yield PAGES, [_entry(unit, path) for path in pages for unit in split_markdown(files[path])]
    first = {module: number for number, module in _numbered_modules()}
    for chapter in COURSE:
        paths = [module_path(module) for module in course_modules() if first[module] == chapter.number]
        entries = [_entry(unit, path) for path in paths for unit in split_source(files[path])]
        if chapter.exercises:
            yield f"{chapter.number:02}-{chapter.name}", entries


def _numbered_modules() -> list[tuple[int, str]]:
    """Chapter and module of each exercise, backwards: the first chapter of a module is its last entry."""
    pairs = [(chapter.number, exercise.module) for chapter in COURSE for exercise in chapter.exercises]
    return pairs[::-1]


def _list_messages() -> Iterator[Entry]:
    """Headings, titles and sentences."""
    yield from (Entry(heading, "stages/teach/docstring.py", "HEADINGS") for heading in HEADINGS)
    yield from (Entry(chapter.title, "stages/teach/course.py", "COURSE") for chapter in COURSE)
    for module in SENTENCES:
        for statement in ast.parse(read_original(module)).body:
            if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                for text in _read_strings(statement.value):
                    yield Entry(text, module_path(module), ast.unparse(target))


def _read_strings(value: ast.expr) -> Iterator[str]:
    """A string, or the values of a mapping of strings, that hold a word."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "MappingProxyType":
        value = value.args[0]
    strings = value.values if isinstance(value, ast.Dict) else [value]
    for node in strings:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and WORD.search(node.value):
            yield node.value


def _entry(unit: Unit, path: str) -> Entry:
    """The entry of a unit in a file."""
    return Entry(unit.text, path, unit.place)
