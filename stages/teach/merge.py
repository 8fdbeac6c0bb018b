"""Merge a learner's file with ours, function by function. Text in, text out.

Texts end their lines with "\\n"; `stages/teach/edition.py` keeps the endings of a file.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from stages.teach.additions import find_additions
from stages.teach.source import add_import
from stages.teach.syntax import (
    Function,
    describe_signature,
    find_function,
    is_text,
    parse_source,
    split_lines,
)


class Merged(NamedTuple):
    """A file of ours with a learner's work in it.

    Fields:
        text: the file.
        kept: names of the learner's functions in it.
        signatures: kept functions whose parameters differ from ours -> ours.
    """

    text: str
    kept: tuple[str, ...]
    signatures: Mapping[str, str]


def digest_functions(text: str) -> dict[str, str]:
    """SHA-256 of the lines of each function and class at the top of a module; {} for one that does not parse.

    Example:
        >>> text = "def f():\\n    return 1\\n"
        >>> digest_functions(text) == digest_functions("import os\\n" + text)
        True
        >>> list(digest_functions(text))
        ['f']
    """
    try:
        tree = parse_source(text)
    except SyntaxError:
        return {}
    lines = split_lines(text)
    nodes = {node.name: node for node in tree.body if isinstance(node, Function | ast.ClassDef)}
    texts = {name: extract_lines(lines, tree, node) for name, node in nodes.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def merge_work(new: str, answer: str, written: Mapping[str, str]) -> Merged:
    """Puts a learner's work into a new version of a file.

    Functions that the learner changed are kept as they are, and so are the names that were added at the
    top of the file. Everything else is ours.

    Args:
        new: our file, with its bodies left out.
        answer: the learner's file.
        written: name of each exercise of `new` -> digest of the function as it was written before; "" for
            one that was not.

    Returns:
        The merged file.

    Raises:
        SyntaxError: if `answer` does not parse.
    """
    ours, theirs = parse_source(new), parse_source(answer)
    lines, their_lines = split_lines(new), split_lines(answer)
    present, ours_now = digest_functions(answer), digest_functions(new)
    kept: dict[str, Function] = {}
    for name, digest in written.items():
        node = find_function(theirs, name)
        if node is not None and present[name] not in (digest, ours_now.get(name)):
            kept[name] = node
    edits: list[tuple[int, int, str]] = []
    signatures: dict[str, str] = {}
    for name, node in kept.items():
        own = find_function(ours, name)
        if own is not None:
            edits.append((*locate(lines, own), extract_lines(their_lines, theirs, node)))
            if describe_signature(own) != describe_signature(node):
                signatures[name] = describe_signature(own)
    for statement, place in find_additions(ours, theirs, kept):
        text = extract_lines(their_lines, theirs, statement)
        if isinstance(statement, Function | ast.ClassDef):
            text = f"{text}\n\n"
        line = locate(lines, ours.body[place])[0] if place < len(ours.body) else len(lines)
        edits.append((line, line, text))
    ordered = sorted(edits, key=lambda edit: (edit[0], edit[0] < edit[1]))  # insertions first, in their order
    for start, end, text in ordered[::-1]:
        lines[start:end] = [text]
    return Merged("".join(lines), tuple(kept), signatures)


def reset_function(new: str, answer: str, name: str) -> str:
    """Replaces one function of a learner's file by that of a new file, and keeps the rest.

    A file that does not parse is searched for lines: the function ends before the next line that begins a
    statement at the left margin. A function that is missing is appended.

    Args:
        new: our file, with its bodies left out.
        answer: the learner's file.
        name: of the function.

    Returns:
        The learner's file with the function left out.

    Raises:
        SyntaxError: if the file does not parse outside that function.
    """
    ours = parse_source(new)
    own = find_function(ours, name)
    assert own is not None, "an exercise is in its file"
    text = extract_lines(split_lines(new), ours, own)
    lines = split_lines(answer)
    try:
        node = find_function(parse_source(answer), name)
        place = locate(lines, node) if node is not None else None
    except SyntaxError:
        place = _scan(lines, name)
    if place is None:
        end = "" if not lines or lines[-1].endswith("\n") else "\n"
        lines.append(f"{end}\n\n{text}")
    else:
        lines[slice(*place)] = [text]
    result = "".join(lines)
    parse_source(result)
    return add_import(result)


def locate(lines: list[str], node: ast.stmt) -> tuple[int, int]:
    """Indices of a statement's first line, after the last: with its decorators and the comments above it."""
    decorators = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(decorator.lineno for decorator in decorators)]) - 1
    while start > 0 and lines[start - 1].startswith("#"):
        start -= 1
    return start, node.end_lineno or node.lineno


def extract_lines(lines: list[str], tree: ast.Module, node: ast.stmt) -> str:
    """Lines of a statement at the top of a module, and of a text that describes it.

    A statement that shares its lines with another, and a part of an import, are written anew.
    """
    start, end = locate(lines, node)
    sharing = [other for other in tree.body if other.lineno <= end and (other.end_lineno or 0) >= node.lineno]
    if sharing != [node]:
        return ast.unparse(node) + "\n"
    following = tree.body[tree.body.index(node) + 1 :][:1]
    if not isinstance(node, Function | ast.ClassDef) and following and is_text(following[0]):
        end = following[0].end_lineno or end
    text = "".join(lines[start:end])
    return text if text.endswith("\n") else text + "\n"


def _scan(lines: list[str], name: str) -> tuple[int, int] | None:
    """Finds the lines of a function in a text that does not parse."""
    heads = [index for index, line in enumerate(lines) if re.match(rf"(?:async\s+)?def\s+{name}\b", line)]
    if not heads:
        return None
    start = end = heads[-1]
    while start > 0 and lines[start - 1].startswith(("@", "#")):
        start -= 1
    end += 1
    while end < len(lines) and not re.match(r"[A-Za-z_@]", lines[end]):
        end += 1
    while end - 1 > heads[-1] and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1
    return start, end
