"""Rules on docstrings: everything public has one, and its sections agree with the code.

The sections that a docstring needs depend on the function:

- every function: a first line;
- more than four parameters (`*` and `**` not counted), or at least two and more than twenty lines of code:
  Args and Returns;
- a function that raises: Raises, with the name of the error.

Args lists every parameter and nothing else, or says "as in `other`" for the rest. The numbers under Steps are
repeated in comments of the body. An exercise of the course has Steps and Example.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stages.teach.course import COURSE
from tests.rules.source import (
    FUNCTION_NODES,
    ROOT,
    Module,
    code_lines,
    functions,
    own_nodes,
    parameters,
    span,
)

MANY_PARAMETERS, MANY_LINES = 4, 20
PLAIN_TYPES = (
    "Tensor",
    "Tree",
    "Any",
    "tuple",
    "list",
    "dict",
    "set",
    "int",
    "float",
    "bool",
    "str",
    "bytes",
)
"""Types that do not say what a result is, so that it needs a Returns section."""
SECTION = re.compile(
    r"^(Args|Fields|Returns|Steps|Edge cases|Raises|Example|Examples|Source|Yields):", re.MULTILINE
)


def exercises_are_complete(module: Module) -> Iterator[str]:
    """An exercise of the course has a docstring with steps and an example, and its chapter a page."""
    nodes = {node.name: node for node in module.tree.body if isinstance(node, FUNCTION_NODES)}
    for chapter in COURSE:
        for exercise in chapter.exercises:
            if exercise.module == module.name:
                place = f"{module.path}: exercise {exercise.name}"
                if exercise.function not in nodes:
                    yield f"{place}: there is no function {exercise.function}"
                    continue
                docstring = ast.get_docstring(nodes[exercise.function])
                missing = [part for part in ("Steps", "Example") if section(docstring, part) is None]
                if missing:
                    yield f"{place}: {exercise.function} lacks {' and '.join(missing)}"
                page = f"stages/teach/chapters/{chapter.number:02}-{chapter.name}.md"
                if not (ROOT / page).is_file():
                    yield f"{place}: the chapter's page {page} is missing"


def public_names_have_docstrings(module: Module) -> Iterator[str]:
    """Every module, public class and public function says what it is."""
    if module.tree.body and not ast.get_docstring(module.tree):
        yield f"{module.path}:1: the module has no docstring"
    for name, node in public_definitions(module):
        if not ast.get_docstring(node) and not is_protocol(node):
            yield f"{module.path}:{node.lineno}: {name} has no docstring"


def args_section_lists_parameters(module: Module) -> Iterator[str]:
    """Args lists every parameter (of a dataclass: every field) and no other."""
    for name, node in public_definitions(module):
        text = section(ast.get_docstring(node), "Args")
        expected = parameters(node) if isinstance(node, FUNCTION_NODES) else field_names(node)
        if text is not None:
            missing = sorted(set(expected) - listed_parameters(text)) if "as in `" not in text else []
            unknown = sorted(listed_parameters(text) - set(expected))
            if missing or unknown:
                yield f"{module.path}:{node.lineno}: {name}: Args lacks {missing} and has unknown {unknown}"


def long_functions_have_sections(module: Module) -> Iterator[str]:
    """A function with many parameters or many lines has Args. It also has Returns, unless its result is a
    class of this project, which has a docstring of its own."""
    for name, node in public_definitions(module):
        if not isinstance(node, FUNCTION_NODES):
            continue
        count = len(parameters(node)) - (node.args.vararg is not None) - (node.args.kwarg is not None)
        large = count > MANY_PARAMETERS or (count > 1 and code_lines(module, node) > MANY_LINES)
        result_type = ast.unparse(node.returns) if node.returns else "None"
        is_own_class = result_type.isidentifier() and result_type not in PLAIN_TYPES
        needed = ("Args",) if is_own_class else ("Args", "Returns")
        missing = [part for part in needed if section(ast.get_docstring(node), part) is None]
        if large and missing:
            yield f"{module.path}:{node.lineno}: {name} lacks {' and '.join(missing)}"


def raises_section_lists_errors(module: Module) -> Iterator[str]:
    """A function that raises an error names it under Raises."""
    for name, node in public_definitions(module):
        raised = {error for n in own_nodes(node) if isinstance(n, ast.Raise) and (error := error_name(n))}
        text = section(ast.get_docstring(node), "Raises") or ""
        missing = sorted(error for error in raised if error not in text)
        if isinstance(node, FUNCTION_NODES) and missing:
            errors = ", ".join(missing)
            yield f"{module.path}:{node.lineno}: {name} raises {errors}, and does not say so under Raises"


def steps_are_numbered_in_comments(module: Module) -> Iterator[str]:
    """The numbers under Steps are those of the comments `# 1.` in the body: of every function, private ones
    and methods included. Marks in a nested function count, unless that has steps of its own."""
    lines = module.text.splitlines()
    for name, node in functions(module.tree):
        text = section(ast.get_docstring(node), "Steps")
        if text is not None:
            listed = [int(n) for n in re.findall(r"^(\d+)\.", text, re.MULTILINE)]
            others = [n for _, n in functions(node) if section(ast.get_docstring(n), "Steps") is not None]
            skipped = {i for each in (node.body[0], *others) for i in span(each)}
            body = [i for i in span(node) if i not in skipped]
            matches = [re.search(r"# ((?:\d+\.(?: and |, )?)+)", lines[i - 1]) for i in body]
            numbers = {int(n) for match in matches if match for n in re.findall(r"\d+", match[1])}
            if listed != list(range(1, len(listed) + 1)) or numbers != set(listed):
                difference = f"Steps says {listed}, the comments say {sorted(numbers)}"
                yield f"{module.path}:{node.lineno}: {name}: {difference}"


def public_definitions(
    module: Module,
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Yield functions and classes at the top of a module, and methods of these classes, without a leading
    underscore."""
    for node in module.tree.body:
        if isinstance(node, (*FUNCTION_NODES, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) and not is_protocol(node) else []:
                if isinstance(inner, FUNCTION_NODES) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def is_protocol(node: ast.AST) -> bool:
    """Tells whether a node is a class derived from Protocol, which needs no docstring."""
    return isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases)


def section(docstring: str | None, title: str) -> str | None:
    """Return the text of one section without its indentation, or None if there is none."""
    parts = SECTION.split(docstring or "")
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        if name == title:
            return re.sub(r"^    ", "", text, flags=re.MULTILINE)
    return None


def listed_parameters(text: str) -> set[str]:
    """Return the names that an Args section lists: "x: ...", "x, y: ...", "*rest: ..."."""
    listed = re.findall(r"^(\*{0,2}\w+(?:, *\*{0,2}\w+)*)(?: \([^)]*\))?:", text, re.MULTILINE)
    return {name.strip().lstrip("*") for line in listed for name in line.split(",")}


def field_names(node: ast.AST) -> list[str]:
    """Return the names of the annotated fields of a class."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    return [n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]


def error_name(node: ast.Raise) -> str | None:
    """Return the name in `raise ValueError(...)`, or None for a bare `raise` or an error made elsewhere."""
    error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    name = ast.unparse(error).split(".")[-1] if error is not None else ""
    return name if name.endswith(("Error", "Exception", "Exit", "Interrupt", "Iteration")) else None
