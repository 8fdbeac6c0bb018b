"""Rules on the shape of the code: kinds of classes, sizes of functions and files, names of files."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.rules.exceptions import CLASSES, DEEP, LONG_FILES, LONG_FUNCTIONS
from tests.rules.source import Module, code_lines, functions

FUNCTION_LINES, FILE_LINES, LINE_LENGTH = 50, 400, 110
RARE_FILE_LINES = 300
"""At most one file in ten has more lines than this."""
VAGUE = frozenset(["utils", "util", "common", "helpers", "helper", "misc"])


def only_plain_classes(module: Module) -> Iterator[str]:
    """Classes are NamedTuples, frozen dataclasses, Protocols, errors, or autograd's Functions."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and f"{module.name}.{node.name}" not in CLASSES:
            bases = {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            frozen = any("dataclass" in text and "frozen=True" in text for text in decorators)
            if not (
                frozen
                or bases & {"NamedTuple", "Protocol", "Function"}
                or any(b.endswith("Error") for b in bases)
            ):
                yield f"{module.path}:{node.lineno}: class {node.name}: behaviour is functions"


def short_functions(module: Module) -> Iterator[str]:
    """A function body has at most 50 lines of code, or a reason in `LONG_FUNCTIONS`.

    Signature, docstring, comments and blank lines are not counted.
    """
    for name, function in functions(module.tree):
        size = code_lines(module, function)
        if size > FUNCTION_LINES and f"{module.name}.{name}" not in LONG_FUNCTIONS:
            yield f"{module.path}:{function.lineno}: {name} has {size} lines of code"


def short_files(module: Module) -> Iterator[str]:
    """A file has at most 400 lines, or a reason in `LONG_FILES`."""
    size = module.text.count("\n")
    if size > FILE_LINES and module.path not in LONG_FILES:
        yield f"{module.path}:1: {size} lines"


def file_names(module: Module) -> Iterator[str]:
    """A file is named after its algorithm, and lies at most four levels deep, or has a reason in `DEEP`."""
    parts = module.path.split("/")
    if set(parts[-1].removesuffix(".py").split("_")) & VAGUE:
        yield f"{module.path}:1: name it after what it computes"
    if len(parts) > 4 and "/".join(parts[:-1]) not in DEEP:
        yield f"{module.path}:1: more than four levels deep"
