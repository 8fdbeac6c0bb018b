"""Rules on docstrings: what is public is documented, and what a docstring lists is what the code has.

Which sections a docstring needs depends on the function. All: a first line. Those with more than four
parameters (`*` and `**` not counted), or with two and more than twenty lines of code: Args and Returns. Those
that raise: Raises, naming the error. Wherever Args stands it lists every parameter and nothing else; the rest
may be "as in `other`". Wherever Steps stands, the body bears the same numbers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.rules.source import Function, Module, code_lines, own_nodes, parameters, span

MANY_PARAMETERS, MANY_LINES = 4, 20
UNNAMED = ("Tensor", "Tree", "Any", "tuple", "list", "dict", "set", "int", "float", "bool", "str", "bytes")
SECTION = re.compile(
    r"^(Args|Fields|Returns|Steps|Edge cases|Raises|Example|Examples|Source|Yields):", re.MULTILINE
)


def documented(module: Module) -> Iterator[str]:
    """Every module, public class and public function says what it is."""
    if module.tree.body and not ast.get_docstring(module.tree):
        yield f"{module.path}:1: the module has no docstring"
    for name, node in public(module):
        if not ast.get_docstring(node) and not is_protocol(node):
            yield f"{module.path}:{node.lineno}: {name} has no docstring"


def arguments_listed(module: Module) -> Iterator[str]:
    """Args lists every parameter (of a dataclass: every field) and no other."""
    for name, node in public(module):
        text = section(ast.get_docstring(node), "Args")
        has = parameters(node) if isinstance(node, Function) else fields(node)
        if text is not None:
            lacking = sorted(set(has) - entries(text)) if "as in `" not in text else []
            unknown = sorted(entries(text) - set(has))
            if lacking or unknown:
                yield f"{module.path}:{node.lineno}: {name}: Args lacks {lacking} and has unknown {unknown}"


def long_ones_have_sections(module: Module) -> Iterator[str]:
    """A function with many parameters or many lines has Args, and Returns unless a class of ours says what
    that is."""
    for name, node in public(module):
        if not isinstance(node, Function):
            continue
        count = len(parameters(node)) - (node.args.vararg is not None) - (node.args.kwarg is not None)
        large = count > MANY_PARAMETERS or (count > 1 and code_lines(module, node) > MANY_LINES)
        kind = ast.unparse(node.returns) if node.returns else "None"
        named = kind.isidentifier() and kind not in UNNAMED
        needed = ("Args",) if named else ("Args", "Returns")
        lacking = [part for part in needed if section(ast.get_docstring(node), part) is None]
        if large and lacking:
            yield f"{module.path}:{node.lineno}: {name} lacks {' and '.join(lacking)}"


def raises_listed(module: Module) -> Iterator[str]:
    """A function that raises says what, under Raises."""
    for name, node in public(module):
        raised = {error for n in own_nodes(node) if isinstance(n, ast.Raise) and (error := error_name(n))}
        said = section(ast.get_docstring(node), "Raises") or ""
        if isinstance(node, Function) and (silent := sorted(error for error in raised if error not in said)):
            yield f"{module.path}:{node.lineno}: {name} raises {', '.join(silent)}, and does not say so under Raises"


def steps_numbered(module: Module) -> Iterator[str]:
    """The numbers under Steps are those of the comments `# 1.` in the body."""
    lines = module.text.splitlines()
    for name, node in public(module):
        text = section(ast.get_docstring(node), "Steps")
        if text is not None:
            said = [int(n) for n in re.findall(r"^(\d+)\.", text, re.MULTILINE)]
            body = [i for i in span(node) if i not in span(node.body[0])]
            comments = [
                found[1] for i in body if (found := re.search(r"# ((?:\d+\.(?: and |, )?)+)", lines[i - 1]))
            ]
            done = {int(n) for comment in comments for n in re.findall(r"\d+", comment)}
            if said != list(range(1, len(said) + 1)) or done != set(said):
                yield f"{module.path}:{node.lineno}: {name}: Steps says {said}, the comments say {sorted(done)}"


def public(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Functions and classes at the top of a module, and methods of these classes, that have no leading
    underscore."""
    for node in module.tree.body:
        if isinstance(node, (*Function, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) and not is_protocol(node) else []:
                if isinstance(inner, Function) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def is_protocol(node: ast.AST) -> bool:
    """Tells whether it is a class that only describes a type."""
    return isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases)


def section(docstring: str | None, title: str) -> str | None:
    """The text of one section, its indentation removed; None if there is none."""
    parts = SECTION.split(docstring or "")
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        if name == title:
            return re.sub(r"^    ", "", text, flags=re.MULTILINE)
    return None


def entries(text: str) -> set[str]:
    """Names that an Args section lists: "x: ...", "x, y: ...", "*rest: ..."."""
    listed = re.findall(r"^(\*{0,2}\w+(?:, *\*{0,2}\w+)*)(?: \([^)]*\))?:", text, re.MULTILINE)
    return {name.strip().lstrip("*") for line in listed for name in line.split(",")}


def fields(node: ast.AST) -> list[str]:
    """Names of the annotated fields of a class."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    return [n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]


def error_name(node: ast.Raise) -> str | None:
    """The error's name in `raise ValueError(...)`; None for a bare `raise` or an error made elsewhere."""
    error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    name = ast.unparse(error).split(".")[-1] if error is not None else ""
    return name if name.endswith(("Error", "Exception", "Exit", "Interrupt", "Iteration")) else None
