"""Names that an answer may not use: they lead to our source, or out of the function.

The answer is a learner's own work on their own machine, so this is no border of security: it names what would
not be an answer before it runs.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from typing import NamedTuple

from stages.teach.syntax import SCOPES, Function, bound_names

MODULES = frozenset(
    (
        "builtins",
        "concurrent",
        "ctypes",
        "dis",
        "faulthandler",
        "gc",
        "glob",
        "http",
        "imp",
        "importlib",
        "inspect",
        "io",
        "linecache",
        "marshal",
        "mmap",
        "multiprocessing",
        "os",
        "pathlib",
        "pickle",
        "pkgutil",
        "pkg_resources",
        "resource",
        "runpy",
        "shelve",
        "shutil",
        "signal",
        "site",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "traceback",
        "urllib",
        "zipfile",
        "zipimport",
    )
)
"""Modules that an answer may not import, nor name."""

ONLY_IMPORTS = frozenset(
    (
        "_io",
        "_pytest",
        "_thread",
        "asyncio",
        "atexit",
        "bdb",
        "cProfile",
        "code",
        "codeop",
        "doctest",
        "hypothesis",
        "pdb",
        "posix",
        "profile",
        "pytest",
        "timeit",
        "trace",
        "unittest",
    )
)
"""More of them, whose names may mean something else in an answer."""

CALLS = frozenset(
    (
        "__import__",
        "breakpoint",
        "compile",
        "eval",
        "exec",
        "exit",
        "globals",
        "input",
        "open",
        "quit",
        "vars",
    )
)
"""Built-in functions that an answer may not name."""

ATTRIBUTES = frozenset(
    (
        "__builtins__",
        "__closure__",
        "__code__",
        "__globals__",
        "__loader__",
        "__self__",
        "__spec__",
        "__subclasses__",
        "__wrapped__",
        "_getframe",
        "cr_frame",
        "f_back",
        "f_globals",
        "f_locals",
        "gi_frame",
        "tb_frame",
    )
)
"""Attributes that an answer may not name, as a constant string of getattr either."""

THROUGH = frozenset(
    (
        "_thread",
        "builtins",
        "ctypes",
        "gc",
        "importlib",
        "inspect",
        "linecache",
        "multiprocessing",
        "os",
        "subprocess",
        "sys",
        "threading",
        "traceback",
    )
)
"""Modules that an answer may not reach through another, such as `torch.multiprocessing`."""

FILES = frozenset(
    ("from_file", "fromfile", "genfromtxt", "load", "loadtxt", "memmap", "save", "savetxt", "savez", "tofile")
)
"""Functions of torch and NumPy that open files."""

NAMES = CALLS | MODULES | ATTRIBUTES
"""Names that an answer may not use, unless they are its own."""

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
"""Statements whose names are an answer's own in the whole file."""

LIBRARIES = frozenset(("torch", "np", "numpy", "torch.hub", "torch.jit"))

ALLOWED = "stages.teach.unsolved"
OWN = ("tests", "examples", "benchmarks", "stages.cli", "stages.teach")
"""Packages of ours that hold answers, or what checks them."""


class Refusal(NamedTuple):
    """A name that an answer may not use, the line in its file, and if it is an import."""

    name: str
    line: int
    is_import: bool


def find_refusal(statements: Collection[ast.stmt], module: str) -> Refusal | None:
    """Finds the first name in an answer that it may not use.

    Args:
        statements: the learner's functions and what they added at the top of the file.
        module: dotted name of the module that the answer is for.

    Example:
        >>> find_refusal(ast.parse("def f():\\n    import os").body, "pure.loss.dpo")
        Refusal(name='os', line=2, is_import=True)
    """
    definitions = [each for each in statements if isinstance(each, DEFINITIONS)]
    bound = frozenset(name for each in definitions for name in bound_names(each))
    found = [
        refusal
        for statement in statements
        for refusal in (
            *(refusal for node in ast.walk(statement) for refusal in _find_in_node(node, module)),
            *(Refusal(name.id, name.lineno, False) for name in _find_names(statement, bound)),
        )
    ]
    return min(found, key=lambda refusal: refusal.line) if found else None


def _find_in_node(node: ast.AST, module: str) -> Iterator[Refusal]:
    """Yields the refusals of one node, other than those of a name."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
        yield from (Refusal(name, node.lineno, True) for name in names if _is_refused_import(name, module))
    elif isinstance(node, ast.ImportFrom):
        origin = _resolve(node, module)
        full = [f"{origin}.{alias.name}" for alias in node.names]
        refused = (
            [origin] if not ALLOWED.startswith(f"{origin}.") and _is_refused_import(origin, module) else []
        )
        refused += [name for name in full if _is_refused_import(name, module)]
        yield from (Refusal(name, node.lineno, True) for name in refused)
    elif isinstance(node, ast.Attribute):
        name = ast.unparse(node)
        opens = node.attr in FILES and ast.unparse(node.value) in LIBRARIES
        if opens or node.attr in ATTRIBUTES | THROUGH or name == "torch.hub":
            yield Refusal(name if opens or node.attr in THROUGH else node.attr, node.lineno, False)
    elif isinstance(node, ast.Global):
        yield Refusal(f"global {', '.join(node.names)}", node.lineno, False)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ATTRIBUTES:
        yield Refusal(node.value, node.lineno, False)


def _find_names(node: ast.AST, bound: frozenset[str]) -> Iterator[ast.Name]:
    """Yields the refused names in a node that no scope around them binds.

    Args:
        node: a statement or an expression.
        bound: names of the scopes around it.
    """
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load) and node.id in NAMES - bound:
            yield node
        return
    inner = bound | _list_bound(node)
    for child, is_inside in _list_children(node):
        yield from _find_names(child, inner if is_inside else bound)


def _list_bound(node: ast.AST) -> frozenset[str]:
    """The names of the scope that a node opens, if it opens one; a class opens none for its methods."""
    if isinstance(node, Function | ast.Lambda):
        parameters = [each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)]
        body = node.body if isinstance(node.body, list) else [node.body]
        return frozenset((*parameters, *(name for each in body for name in bound_names(each))))
    if isinstance(node, SCOPES):
        parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.comprehension)]
        return frozenset(name for part in parts for name in bound_names(part.target))
    return frozenset()


def _list_children(node: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """The children of a node, each with True if it is inside the scope that the node opens."""
    if isinstance(node, Function | ast.Lambda):
        body = node.body if isinstance(node.body, list) else [node.body]
        yield from ((child, any(child is each for each in body)) for child in ast.iter_child_nodes(node))
        return
    parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.comprehension)]
    for part in parts:
        yield from ((child, child is not parts[0].iter) for child in ast.iter_child_nodes(part))
    yield from ((child, True) for child in ast.iter_child_nodes(node) if child not in parts)


def _is_refused_import(name: str, module: str) -> bool:
    """Tells whether an answer may not import a name, or a module, under its full name."""
    if name == ALLOWED or name == f"{ALLOWED}.Unsolved":
        return False
    if ALLOWED.startswith(f"{name}."):
        return True
    first, last = name.split(".")[0], name.split(".")[-1]
    is_own = any(name == package or name.startswith(f"{package}.") for package in OWN)
    is_ours = name == module or name.startswith(f"{module}.")
    return first in MODULES | ONLY_IMPORTS or last in THROUGH or is_own or is_ours


def _resolve(node: ast.ImportFrom, module: str) -> str:
    """Dotted name of the module that a `from` names; relative ones are made absolute."""
    if not node.level:
        return node.module or ""
    base = module.split(".")[: -node.level]
    return ".".join([*base, *([node.module] if node.module else [])])
