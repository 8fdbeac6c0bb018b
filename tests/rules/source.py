"""Parse the project's own source for the rules: modules, functions, imports, names."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pure", "data_pipes", "stages")
PROGRAMS = ("examples", "benchmarks")
FUNCTION_NODES = (ast.FunctionDef, ast.AsyncFunctionDef)


class Module(NamedTuple):
    """A parsed file. Its name is dotted: "pure.nn.linear", or "pure.nn" for a package's __init__."""

    name: str
    path: str
    text: str
    tree: ast.Module
    package: bool  # the file is an __init__.py


class Import(NamedTuple):
    """One imported name."""

    module: str  # the module that it comes from
    name: str | None  # the name in that module; None if the module itself is imported
    line: int
    inside: bool  # inside a function, so that the import happens when it is called


def parse(text: str, name: str) -> Module:
    """Parses a text as if it were the module of that name; "a.b.__init__" is the package a.b."""
    package = name.endswith(".__init__")
    return Module(
        name.removesuffix(".__init__"), name.replace(".", "/") + ".py", text, ast.parse(text), package
    )


@functools.cache
def read(*folders: str) -> tuple[Module, ...]:
    """Parses every Python file below these folders."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    dotted = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return tuple(
        parse(path.read_text(encoding="utf8"), name) for path, name in zip(paths, dotted, strict=True)
    )


@functools.cache
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    """Lists every node of a file; each rule looks through them."""
    return tuple(ast.walk(tree))


@functools.cache
def functions(tree: ast.AST) -> tuple[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef], ...]:
    """Lists every function with its name, "Class.method" for methods, nested ones as "outer.inner"."""

    def walk(node: ast.AST, prefix: str) -> Iterator:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (*FUNCTION_NODES, ast.ClassDef)):
                if isinstance(child, FUNCTION_NODES):
                    yield prefix + child.name, child
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    return tuple(walk(tree, ""))


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes that belong to this function, and not to one that is defined inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, (*FUNCTION_NODES, ast.Lambda, ast.ClassDef)):
            yield child
            yield from own_nodes(child)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the names of the parameters in order, without `*` and `**`, self and cls."""
    a = function.args
    arguments = [
        *a.posonlyargs,
        *a.args,
        *([a.vararg] if a.vararg else []),
        *a.kwonlyargs,
        *([a.kwarg] if a.kwarg else []),
    ]
    return [p.arg for p in arguments if p.arg not in ("self", "cls")]


def code_lines(module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Counts lines of code in a body: no signature, docstring, blank line, or line that is only a comment."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    lines = module.text.splitlines()
    stripped = [lines[i - 1].strip() for statement in body for i in span(statement)]
    return sum(1 for line in stripped if line and not line.startswith("#"))


def span(node: ast.stmt) -> range:
    """Return the line numbers of a statement, counted from 1."""
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def calls(module: Module) -> Iterator[ast.Call]:
    """Yields every call in the file."""
    return (node for node in nodes(module.tree) if isinstance(node, ast.Call))


def is_under(name: str, *packages: str) -> bool:
    """Tells whether a dotted name is one of these packages or lies in one: `pure.nn.linear` is under
    `pure.nn`."""
    return any(name == package or name.startswith(package + ".") for package in packages)


@functools.cache
def imports(module: Module) -> tuple[Import, ...]:
    """Lists every import, those for type checkers among them. Relative ones are made absolute."""
    return tuple(_imports(module))


def _imports(module: Module) -> Iterator[Import]:
    """Yields every import of a file."""
    inside = {id(n) for _, f in functions(module.tree) for n in ast.walk(f) if n is not f}
    for node in nodes(module.tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None, node.lineno, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(module, node)
            for alias in node.names:
                target = f"{source}.{alias.name}"
                if is_module(target):
                    yield Import(target, None, node.lineno, id(node) in inside)
                else:
                    yield Import(source, alias.name, node.lineno, id(node) in inside)


def is_module(name: str) -> bool:
    """Tells whether a dotted name is a module or a package of this project."""
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def bound_names(module: Module) -> set[str]:
    """Return the names that a module binds at its top level by importing, assigning or defining."""
    names: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, (*FUNCTION_NODES, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    base = parts[: len(parts) - node.level + (1 if module.package else 0)]
    return ".".join([*base, *([node.module] if node.module else [])])
