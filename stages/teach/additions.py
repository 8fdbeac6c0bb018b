"""Compare the top of a learner's file with that of our module: what is added, changed, ignored."""

from __future__ import annotations

import ast
import copy
from collections.abc import Collection, Iterator
from typing import NamedTuple

from stages.teach.syntax import Function, bound_alias, bound_names, is_future, is_text, parse_source

LONGEST = 40
"""Characters of a statement in a message."""


class Addition(NamedTuple):
    """A statement that binds names which our module does not have.

    Fields:
        statement: of the learner's file; of an import that binds other names too, the part that is new.
        place: index of the statement of our module before which it is executed.
    """

    statement: ast.stmt
    place: int


def find_additions(original: ast.Module, answer: ast.Module, functions: Collection[str]) -> list[Addition]:
    """Finds the imports, helpers and constants that a learner added, each with its place in our module.

    An addition is placed after the definitions of ours that are before it in the learner's file, and before
    each function of `functions` that is after it there.

    Args:
        original: our module.
        answer: the learner's.
        functions: names of the functions that are taken from the learner.

    Returns:
        The additions in the order of their places.
    """
    place_of = {name: index for index, node in enumerate(original.body) for name in bound_names(node)}
    heading = _count_heading(original)
    additions: list[Addition] = []
    reached = heading
    added: set[str] = set()
    for node in answer.body:
        statement = None if is_future(node) else _take_new_part(node, place_of.keys(), added)
        if statement is not None:
            additions.append(Addition(statement, reached))
            added.update(bound_names(statement))
            continue
        for place in (place_of[name] for name in bound_names(node) if name in place_of):
            reached = max(reached, place + 1)
            reached += sum(1 for each in original.body[reached : reached + 1] if is_text(each))
        if isinstance(node, Function) and node.name in functions:
            limit = place_of[node.name]
            additions = [Addition(each, min(place, limit)) for each, place in additions]
    return additions


def drop_docstrings(text: str) -> ast.Module:
    """Parses a module without the texts that stand as statements in its functions and classes.

    Raises:
        SyntaxError: as `parse_source`.
    """
    tree = parse_source(text)
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef):
            node.body = [statement for statement in node.body if not is_text(statement)]
    return tree


def compare_definitions(
    original: ast.Module, answer: ast.Module, functions: Collection[str]
) -> Iterator[tuple[str, str, int]]:
    """Yields what a learner's file changes besides exercises, as (kind, name, line of the learner's file).

    Args:
        original: our module, without the docstrings of its functions and classes (`drop_docstrings`).
        answer: the learner's, likewise.
        functions: names of the exercises.

    Returns:
        "changed" for a name of ours that is bound to something else, "ignored" for a statement that is
        neither ours nor a definition of new names.
    """
    known = {name: value for node in original.body for name, value in _describe_bindings(node)}
    statements = {ast.dump(node) for node in original.body}
    added: set[str] = set()
    for node in answer.body:
        bindings = [] if isinstance(node, Function) and node.name in functions else _describe_bindings(node)
        is_ours = is_text(node) or is_future(node) or ast.dump(node) in statements
        if is_ours or (isinstance(node, Function) and node.name in functions):
            continue
        statement = _take_new_part(node, known.keys(), added)
        added.update(bound_names(statement) if statement else ())
        changed = [name for name, value in bindings if name in known and known[name] != value]
        yield from (("changed", name, node.lineno) for name in changed)
        is_same = any(name in known for name, _ in bindings)
        if statement is None and not changed and not is_same and not isinstance(node, ast.Pass):
            yield "ignored", _abbreviate(node), node.lineno


def _take_new_part(node: ast.stmt, known: Collection[str], added: Collection[str]) -> ast.stmt | None:
    """Returns a statement, or the part of an import, that binds new names only; None if there is none.

    A statement that binds nothing, but works on a name that was added (`TABLE["a"] = 1`), is new too.
    """
    if isinstance(node, ast.Import | ast.ImportFrom):
        fresh = [alias for alias in node.names if bound_alias(alias) not in (*known, "*")]
        part = copy.copy(node)
        part.names = fresh
        return part if fresh else None
    names = set(bound_names(node))
    if names:
        return None if names & set(known) else node
    return node if _root_name(node) in added else None


def _root_name(node: ast.stmt) -> str:
    """Name of the object that a statement works on which binds nothing: `x` of `x.y[0] = 1`, `x.add(1)`."""
    value: ast.AST | None = None
    if isinstance(node, ast.Assign):
        value = node.targets[0]
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        value = node.target
    elif isinstance(node, ast.Expr):
        value = node.value
    while isinstance(value, ast.Attribute | ast.Subscript | ast.Call):
        value = value.func if isinstance(value, ast.Call) else value.value
    return value.id if isinstance(value, ast.Name) else ""


def _count_heading(tree: ast.Module) -> int:
    """Number of statements at the top that must stay first: the docstring and imports from `__future__`."""
    count = 0
    for node in tree.body:
        if not is_future(node) and not (count == 0 and is_text(node)):
            break
        count += 1
    return count


def _describe_bindings(node: ast.stmt) -> list[tuple[str, str]]:
    """Each name that a statement binds, with a description of what it is bound to."""
    if isinstance(node, ast.Import):
        return [(bound_alias(alias), f"import {ast.unparse(alias)}") for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        source = "." * node.level + (node.module or "")
        return [(bound_alias(alias), f"from {source} import {alias.name}") for alias in node.names]
    return [(name, ast.dump(node)) for name in bound_names(node)]


def _abbreviate(node: ast.stmt) -> str:
    """The first line of a statement."""
    line = ast.unparse(node).splitlines()[0]
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
