"""Rules on the shape of the code: kinds of classes, sizes of functions and files, names of files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stages.cli.subcommands import SUBCOMMANDS
from tests.rules.exceptions import ALL_FLAGS, CLASSES, DEEP, LONG_FILES, LONG_FUNCTIONS
from tests.rules.source import Module, calls, code_lines, functions, is_under, nodes

FUNCTION_LINES, FILE_LINES, LINE_LENGTH = 50, 400, 110
RARE_FILE_LINES = 300
"""At most one file in ten has more lines than this."""
VAGUE = frozenset(["utils", "util", "common", "helpers", "helper", "misc"])


def only_plain_classes(module: Module) -> Iterator[str]:
    """Classes are NamedTuples, frozen dataclasses, Protocols, errors, or autograd's Functions."""
    for node in nodes(module.tree):
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


def all_flags_only_in_entries(module: Module) -> Iterator[str]:
    """Only entry functions (`ALL_FLAGS`, those of subcommands, and each stage's builder, `build_NAME` in a file
    `stages/run/build_*.py`) take all flags of a subcommand, as `options: NameOptions`; others take the values
    that they need, or a group, as `flags: NameFlags`."""
    if not is_under(module.name, "stages"):
        return
    entries = {*ALL_FLAGS, *(row.run.replace(":", ".") for row in SUBCOMMANDS.values())}
    has_builders = module.name.startswith("stages.run.build_")
    for name, function in functions(module.tree):
        is_builder = has_builders and name.startswith("build_")
        if f"{module.name}.{name}" not in entries and not is_builder:
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            for argument in arguments:
                annotation = ast.unparse(argument.annotation) if argument.annotation else "Any"
                takes_any = argument.arg in ("options", "flags") and annotation == "Any"
                if takes_any or re.search(r"(?<!type\[)\b\w*Options\b", annotation):
                    yield f"{module.path}:{function.lineno}: {name} takes {argument.arg}: {annotation}"
    for node in calls(module):
        if ast.unparse(node).startswith(("hasattr(options", "hasattr(flags")):
            yield f"{module.path}:{node.lineno}: {ast.unparse(node)}"


def file_names(module: Module) -> Iterator[str]:
    """A file is named after its algorithm, and lies at most four levels deep, or has a reason in `DEEP`."""
    parts = module.path.split("/")
    if set(parts[-1].removesuffix(".py").split("_")) & VAGUE:
        yield f"{module.path}:1: name it after what it computes"
    if len(parts) > 4 and "/".join(parts[:-1]) not in DEEP:
        yield f"{module.path}:1: more than four levels deep"
