"""Read Python source as a tree: parse, find functions, compare signatures, list bound names."""

from __future__ import annotations

import ast
import copy
import io
import warnings
from collections.abc import Iterator
from threading import RLock
from typing import TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
"""Expressions whose names are their own."""

DEEPEST = 100
"""Limit on the nesting of a tree, so that functions which walk it recursively stay within Python's stack."""

PARSING = RLock()
"""Held by a thread that parses.

Python before 3.11.8 counts the depth of a tree in one place for all threads: where a collection of garbage
calls Python (`gc.callbacks`), two threads that parse at a time get "AST constructor recursion depth mismatch"
(python/cpython issue 106905). `warnings.catch_warnings` is for one thread too.
"""


def parse_source(text: str) -> ast.Module:
    """Parses a module; warnings of the parser are not shown.

    Raises:
        SyntaxError: for a text that is not Python, including null bytes, and for one that is nested more than
            DEEPEST levels deep.
    """
    try:
        with PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error) or "nested too deeply", ("", 1, 1, "")) from None
    level: list[ast.AST] = [tree]
    for _ in range(DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        line = getattr(level[0], "lineno", 1)
        raise SyntaxError(f"nested more than {DEEPEST} levels deep", ("", line, 1, ""))
    return tree


def split_lines(text: str) -> list[str]:
    """Splits a text where Python counts lines; each line keeps its ending.

    Example:
        >>> split_lines("a\\r\\nb\\x0cc\\n")
        ['a\\r\\n', 'b\\x0cc\\n']
    """
    return io.StringIO(text, newline="").readlines()


def find_function(tree: ast.Module, name: str) -> Function | None:
    """Finds the last function of a name at the top of a module: the one that a call reaches."""
    for node in reversed(tree.body):
        if isinstance(node, Function) and node.name == name:
            return node
    return None


def describe_signature(function: Function) -> str:
    """Describes kind, names, order and defaults of the parameters, without annotations.

    Example:
        >>> describe_signature(parse_source("def f(x: int, *, y=1) -> None: pass").body[0])
        'def f(x, *, y=1)'
    """
    arguments = copy.deepcopy(function.args)
    for node in ast.walk(arguments):
        if isinstance(node, ast.arg):
            node.annotation = None
    keyword = "async def" if isinstance(function, ast.AsyncFunctionDef) else "def"
    return f"{keyword} {function.name}({ast.unparse(arguments)})"


def is_text(node: ast.AST) -> bool:
    """Tells if a statement is a string alone, such as a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def is_future(node: ast.AST) -> bool:
    """Tells if a statement is an import from `__future__`."""
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def bound_names(node: ast.AST) -> Iterator[str]:
    """Yields the names that a statement binds in its own scope, also inside `if`, `for`, `try` and `with`.

    Example:
        >>> list(bound_names(parse_source("import a.b, c as d").body[0]))
        ['a', 'd']
        >>> list(bound_names(parse_source("x, y.z = [i for i in t]").body[0]))
        ['x']
    """
    if isinstance(node, Function | ast.ClassDef):
        yield node.name
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (bound_alias(alias) for alias in node.names)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        yield node.name
    if not isinstance(node, SCOPES):
        for child in ast.iter_child_nodes(node):
            yield from bound_names(child)


def bound_alias(alias: ast.alias) -> str:
    """Returns the name that a part of an import binds; "*" for all names."""
    return alias.asname or alias.name.split(".")[0]
