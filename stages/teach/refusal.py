"""Names that an answer may not use: they lead to our source, or out of the function.

The answer is a learner's own work on their own machine, so this is no border of security: it names what would
not be an answer before it runs.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from typing import NamedTuple

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
"""Modules that an answer may not import."""

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
    ("builtins", "ctypes", "importlib", "inspect", "linecache", "multiprocessing", "os", "subprocess", "sys")
)
"""Modules that an answer may not reach as an attribute of another, such as `torch.multiprocessing`."""

FILES = frozenset(
    ("from_file", "fromfile", "genfromtxt", "load", "loadtxt", "memmap", "save", "savetxt", "savez", "tofile")
)
"""Functions of torch and NumPy that open files."""

LIBRARIES = frozenset(("torch", "np", "numpy", "torch.hub", "torch.jit"))

ALLOWED = "stages.teach.unsolved"
OWN = ("tests", "examples", "benchmarks", "stages.teach")
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
    nodes = [node for statement in statements for node in ast.walk(statement)]
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    found = [refusal for node in nodes for refusal in _find_in_node(node, module, bound)]
    return min(found, key=lambda refusal: refusal.line) if found else None


def _find_in_node(node: ast.AST, module: str, bound: Collection[str]) -> Iterator[Refusal]:
    """Yields the refusals of one node."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
        yield from (Refusal(name, node.lineno, True) for name in names if _is_refused_import(name, module))
    elif isinstance(node, ast.ImportFrom):
        origin = _resolve(node, module)
        names = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        yield from (
            Refusal(name, node.lineno, True) for name in names if _is_refused_import(name, module, origin)
        )
    elif isinstance(node, ast.Name) and node.id not in bound:
        if node.id in CALLS | MODULES | ATTRIBUTES:
            yield Refusal(node.id, node.lineno, False)
    elif isinstance(node, ast.Attribute):
        name = ast.unparse(node)
        opens = node.attr in FILES and ast.unparse(node.value) in LIBRARIES
        if opens or node.attr in ATTRIBUTES | THROUGH or name == "torch.hub":
            yield Refusal(name if opens or node.attr in THROUGH else node.attr, node.lineno, False)
    elif isinstance(node, ast.Global):
        yield Refusal(f"global {', '.join(node.names)}", node.lineno, False)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ATTRIBUTES:
        yield Refusal(node.value, node.lineno, False)


def _is_refused_import(name: str, module: str, origin: str = "") -> bool:
    """Tells whether an answer may not import a name, or a module, of an origin."""
    if ALLOWED in (name, origin) or name == f"{ALLOWED}.Unsolved":
        return False
    if ALLOWED.startswith(f"{name}."):  # `from stages.teach import unsolved`: judged by its full name
        return not origin
    is_own = any(name == package or name.startswith(f"{package}.") for package in OWN)
    return name.split(".")[0] in MODULES or is_own or name == module or name.startswith(f"{module}.")


def _resolve(node: ast.ImportFrom, module: str) -> str:
    """Dotted name of the module that a `from` names; relative ones are made absolute."""
    if not node.level:
        return node.module or ""
    base = module.split(".")[: -node.level]
    return ".".join([*base, *([node.module] if node.module else [])])
