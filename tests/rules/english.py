"""Rules on words: plain technical English in docstrings, comments, messages and names; layout."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping

from tests.rules.shape import LINE_LENGTH
from tests.rules.source import FUNCTION_NODES, Module, functions, nodes

OPENINGS = ("what", "how", "which", "whether", "where")
"""Words that open a question. A docstring opens with a verb or a noun of the field."""

PHRASES: Mapping[str, str] = {
    r"behind": "after (order), or at or before (a causal mask)",
    r"passed over|passes over|pass over": "skipped",
    r"worked in(?!\w)": "merged",
    r"put into words|puts into words|in words": "rendered, described",
    r"kept apart|keeps apart": "held out",
    r"going on from|goes on from|go on from": "resumes from",
    r"mends?|mended": "fix",
    r"believed|believes": "validated, verified on load",
    r"climb(?:s|ed|ing)?": "run",
    r"rungs?": "stage",
    r"heat": "temperature",
    r"came to|comes to|come to": "is, results in",
    r"who drew|the drawing|drawn? by whom": "behaviour policy, sampling",
    r"strangers?": "other people, third parties",
    r"a person": "the user",
    r"in the open|by choice": "explicit, optional",
    r"for ever": "without end",
    r"nothing vanishes": "nothing is dropped silently",
}
"""Pattern of a phrase that makes an engineer stop -> what to write."""

TELLS_NOTHING = frozenset((
    "told", "tell", "asked", "whole", "beside", "known", "placed", "taken", "noted", "alone", "closed",
    "made", "without", "added", "up", "on", "both", "each", "many", "machine", "form", "of", "at", "over",
    "under", "apart", "there", "left", "shown", "given", "found", "wanted", "meant", "due", "thing",
    "things", "words", "look", "measure", "draw", "learn", "keep", "heat", "same", "one", "all", "any",
    "some", "rest", "other", "others", "back", "here", "up_to", "in_words",
))  # fmt: skip
"""Function names that say nothing: participles, particles, and words that avoid the term of the field."""


def docstring_openings(module: Module) -> Iterator[str]:
    """A docstring opens with a verb or a noun of the field, never with What, How, Which, Whether or Where."""
    for name, node in _documented(module):
        first = (ast.get_docstring(node) or "").split(" ")[0].strip(",:").lower()
        if first in OPENINGS:
            yield f"{module.path}:{getattr(node, 'lineno', 1)}: {name} opens with {first!r}"


def words(module: Module) -> Iterator[str]:
    """Docstrings, comments and messages use the terms of the field, not the phrases of `PHRASES`."""
    patterns = {re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE): fix for pattern, fix in PHRASES.items()}
    for line, text in _prose(module):
        for pattern, fix in patterns.items():
            for match in pattern.finditer(" ".join(text.split())):
                yield f"{module.path}:{line}: {match[0]!r}: write {fix}"


def function_names(module: Module) -> Iterator[str]:
    """No function has a name that says nothing, such as a participle or a particle alone."""
    for name, function in functions(module.tree):
        if name.rpartition(".")[2].strip("_") in TELLS_NOTHING:
            place = f"{module.path}:{function.lineno}"
            yield f"{place}: {name} says nothing; name it with a verb and a noun of the field"


def line_length(module: Module) -> Iterator[str]:
    """Lines have at most 110 characters."""
    for number, line in enumerate(module.text.splitlines(), 1):
        if len(line) > LINE_LENGTH:
            yield f"{module.path}:{number}: {len(line)} characters"


def formatted(module: Module) -> Iterator[str]:
    """`fmt: skip` stands only in tables: constants, and the cases of a parametrized test."""
    constants = [node for node in module.tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    decorators = [d for _, function in functions(module.tree) for d in function.decorator_list]
    table_lines = {
        line for node in (*constants, *decorators) for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    for number, line in enumerate(module.text.splitlines(), 1):
        if line.endswith("# fmt: skip") and number not in table_lines:
            yield f"{module.path}:{number}: fmt: skip outside a table"


def nested_expressions(module: Module) -> Iterator[str]:
    """No conditional expression in another, no comprehension with three loops."""
    comprehension = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for node in nodes(module.tree):
        if isinstance(node, ast.IfExp) and any(
            isinstance(n, ast.IfExp) for n in ast.walk(node) if n is not node
        ):
            yield f"{module.path}:{node.lineno}: a conditional expression in another: write if statements"
        if isinstance(node, comprehension) and len(node.generators) > 2:
            yield f"{module.path}:{node.lineno}: a comprehension with {len(node.generators)} loops: write the loops"


def code_line_count(module: Module) -> int:
    """Count the lines of code in a file: without docstrings, blank lines and lines that are only a comment."""
    docstring_lines: set[int] = set()
    for node in nodes(module.tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            docstring_lines.update(range(node.lineno, (node.end_lineno or 0) + 1))
    count = 0
    for number, line in enumerate(module.text.splitlines(), 1):
        is_code = line.strip() and not line.strip().startswith("#")
        if is_code and number not in docstring_lines:
            count += 1
    return count


def _documented(module: Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield the module, its classes and its functions, private ones included, each with its name."""
    yield module.name, module.tree
    for node in nodes(module.tree):
        if isinstance(node, (*FUNCTION_NODES, ast.ClassDef)):
            yield node.name, node


def _prose(module: Module) -> Iterator[tuple[int, str]]:
    """Yield every string of several words and every comment, each with its line."""
    for node in nodes(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
