"""Mutants of a function: its syntax tree with one small mistake in it.

Pure: a tree in, trees out. The mistakes are those of `_mistakes`. Docstrings, annotations, and the texts of
errors stay as they are.
"""

from __future__ import annotations

import ast
import copy
import difflib
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from _mistakes import list_operators


class Mutation(NamedTuple):
    """A function with a mistake.

    Fields:
        operator: name of the kind of mistake.
        line: of the original's node.
        tree: the function.
    """

    operator: str
    line: int
    tree: ast.FunctionDef


SPECIAL = ("eps", "variance", "mean", "detach", "dtype", "clip", "write", "keepdim", "exchange")
"""Operators that few functions have a place for: they are chosen first."""

LAST = ("keyword", "items", "separator", "assign", "handler", "unwrap")
"""Operators for functions that have few places for the others: they are chosen last."""


def list_mutations(function: ast.FunctionDef) -> list[Mutation]:
    """Lists all mutants of a function, no two with the same text, none with the original's.

    Args:
        function: with a docstring.

    Example:
        >>> function = ast.parse('def f(x):\\n    "Half."\\n    return x.mean() / 2').body[0]
        >>> for each in list_mutations(function):
        ...     print(each.operator, "|", ast.unparse(each.tree.body[-1]))
        mean | return x.sum() / 2
        product | return x.mean() * 2
        constant | return x.mean() / 3
    """
    seen = {ast.unparse(function)}
    found = []
    nodes = list(walk_body(function))
    for name, operator in list_operators(function).items():
        for node in nodes:
            for replacement in operator(node):
                tree = copy.deepcopy(function, {id(node): ast.copy_location(replacement, node)})
                text = ast.unparse(tree)
                if text not in seen:
                    seen.add(text)
                    found.append(Mutation(name, getattr(node, "lineno", 0), tree))
    return found


def choose_mutations(mutations: Sequence[Mutation], seed: str, count: int) -> list[Mutation]:
    """Chooses some mutants: of each operator in turn, on the line that has the fewest so far.

    Args:
        mutations: in order.
        seed: text that decides with which of the common operators to begin.
        count: of those to choose, at most.
    """
    names = dict.fromkeys(each.operator for each in mutations)
    general = [name for name in names if name not in (*SPECIAL, *LAST)]
    offset = zlib.crc32(seed.encode()) % max(1, len(general))
    lines: Counter[int] = Counter()
    chosen: list[Mutation] = []
    for order in ([*SPECIAL, *general[offset:], *general[:offset]], LAST):
        left = {name: [each for each in mutations if each.operator == name] for name in order}
        while len(chosen) < count and any(left.values()):
            for name in order:
                if left[name] and len(chosen) < count:
                    best = min(left[name], key=lambda each: lines[each.line])
                    left[name] = [each for each in left[name] if each is not best]
                    lines[best.line] += 1
                    chosen.append(best)
    return chosen


def describe_change(function: ast.FunctionDef, mutant: ast.FunctionDef) -> str:
    """Writes the lines that a mutant lacks and those that it adds.

    Example:
        >>> functions = ast.parse("def f(x):\\n    return x\\ndef f(x):\\n    return -x").body
        >>> describe_change(*functions)
        '-return x\\n+return -x'
    """
    before, after = (ast.unparse(each).splitlines() for each in (function, mutant))
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    return "\n".join(line[0] + line[1:].strip() for line in lines if not line.startswith("@@"))


def walk_body(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Yields the nodes of a function in which a mistake may be made, in the order of the text."""
    for statement in function.body:
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            yield from _walk(statement)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and those below it, without annotations, errors that are raised, and formatted texts."""
    yield node
    if isinstance(node, ast.Raise | ast.JoinedStr):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child)
