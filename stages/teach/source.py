"""Source of exercises as text: leave bodies out, see what is solved, put a learner's function into ours.

Text in, text or syntax trees out; no file is touched, and nothing is executed. A text is decoded, without a
byte order mark; its lines end in any way.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

from stages.teach.additions import compare_definitions, drop_docstrings, find_additions
from stages.teach.syntax import (
    Function,
    bound_names,
    describe_signature,
    find_function,
    is_future,
    is_text,
    parse_source,
    split_lines,
)

Level = Literal["steps", "docstring"]

MARK = re.compile(r"#\s*\d+\.(?=[\s,]|$)")
"""Start of a comment that marks a numbered step."""

IMPORT = "from stages.teach.unsolved import Unsolved"
OURS = ("pure", "data_pipes", "stages")


class Part(NamedTuple):
    """A piece of a composed module; the pieces are executed in order in one namespace.

    Fields:
        path: of the file that the piece is from, with which it is compiled.
        tree: its statements, with the line numbers of that file.
    """

    path: str
    tree: ast.Module


class Difference(NamedTuple):
    """A place where a learner's file differs from ours, other than by the body of an exercise.

    Fields:
        kind: "syntax", the file does not parse; "missing", an exercise is not in it; "signature", an exercise
            has other parameters; "changed", something of ours that is no exercise has another meaning in it;
            "ignored", a statement that is not executed, as it defines nothing new.
        name: of the function or constant; of "syntax" the parser's message; of "ignored" the statement.
        line: in the learner's file, from 1; 0 for "missing".
    """

    kind: str
    name: str
    line: int


def leave_out(text: str, functions: Mapping[str, str], level: Level) -> str:
    """Replaces the bodies of exercises by `raise Unsolved("exercise")`.

    Signature, decorators and docstring stay, and so does everything outside these functions.

    Args:
        text: source of one of our modules.
        functions: name of a function at the top of the module -> name of the exercise.
        level: "steps" keeps the comments `# 1. ...` of the body, at the body's indentation; "docstring" keeps
            none.

    Returns:
        The text with an import of `Unsolved` added.

    Raises:
        ValueError: for a function that is not in the text, or that has no docstring.

    Example:
        >>> text = 'def double(x):\\n    "Doubles."\\n    # 1. Add.\\n    return x + x\\n'
        >>> print(leave_out(text, {"double": "double"}, "steps"))
        from stages.teach.unsolved import Unsolved
        <BLANKLINE>
        def double(x):
            "Doubles."
            # 1. Add.
            raise Unsolved("double")
        <BLANKLINE>
    """
    tree, lines = parse_source(text), split_lines(text)
    marks = find_marks(text) if level == "steps" else {}
    nodes = [(_find_function(tree, name), exercise) for name, exercise in functions.items()]
    for node, exercise in sorted(nodes, key=lambda pair: -pair[0].lineno):
        docstring = node.body[0]
        if ast.get_docstring(node) is None:
            raise ValueError(f"{node.name}: an exercise has a docstring; write one")
        start, end = docstring.end_lineno or 0, node.end_lineno or 0
        indent = " " * docstring.col_offset
        kept = [f"{indent}{line}\n" for number in range(start + 1, end + 1) for line in marks.get(number, ())]
        lines[start:end] = [*kept, f'{indent}raise Unsolved("{exercise}")\n']
    return add_import("".join(lines)) if functions else text


def add_import(text: str) -> str:
    """Adds the import of `Unsolved` after the imports at the top of a module, unless it is there already."""
    tree, lines = parse_source(text), split_lines(text)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    if any("Unsolved" in bound_names(node) for node in imports):
        return text
    last: ast.stmt | None = None
    for node in tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom) and (last or not is_text(node)):
            break
        last = node
    ending = "\r\n" if "\r\n" in text else "\n"
    if last is None:
        return f"{IMPORT}{ending}{ending}{text}"
    is_beside = not is_text(last) and ast.unparse(last).split()[1].split(".")[0] in OURS
    place = last.end_lineno or 0
    if not lines[place - 1].endswith(("\n", "\r")):
        lines[place - 1] += ending
    lines[place:place] = [f"{IMPORT}{ending}"] if is_beside else [ending, f"{IMPORT}{ending}"]
    return "".join(lines)


def is_solved(text: str, function: str) -> bool:
    """Tells whether a function is at the top of a module and nothing in it raises `Unsolved`.

    A text that does not parse has no function that is solved. A body that only passes counts as solved: the
    check is what judges it.

    Example:
        >>> is_solved("def f(): return 1", "f"), is_solved("def f(): raise Unsolved('f')", "f")
        (True, False)
    """
    try:
        node = find_function(parse_source(text), function)
    except SyntaxError:
        return False
    return node is not None and not any(_raises_unsolved(inner) for inner in ast.walk(node))


def compose(
    original: str, original_path: str, answer: str, answer_path: str, functions: Collection[str]
) -> list[Part]:
    """Puts functions of a learner's file at the place of ours in our module.

    The names that the learner added at the top of the file (imports, helpers, constants) are defined too:
    after the definitions of ours that stand before them in the learner's file, and before the functions of
    `functions` that stand after them. `find_differences` lists all else, which is left out.

    Args:
        original: source of our module.
        original_path: its file.
        answer: source of the learner's file.
        answer_path: that file.
        functions: names of the functions to take from `answer`.

    Returns:
        The parts of the module in the order of execution.

    Raises:
        SyntaxError: for a text that does not parse.
        ValueError: for a function that is missing in one of the two.
    """
    ours, theirs = parse_source(original), parse_source(answer)
    places = {_find_function(ours, name): _find_function(theirs, name) for name in functions}
    additions = find_additions(ours, theirs, functions)
    parts: list[Part] = []
    for index, node in enumerate([*ours.body, None]):
        for addition in additions:
            if addition.place == index:
                _append(parts, answer_path, theirs, addition.statement)
        if node in places:
            _append(parts, answer_path, theirs, places[node])  # type: ignore[index]
        elif node is not None and getattr(node, "name", None) not in functions:
            _append(parts, original_path, ours, node)
    return parts


def find_differences(original: str, answer: str, functions: Collection[str]) -> list[Difference]:
    """Lists what `compose` cannot take, or leaves out, of a learner's file.

    Docstrings, comments, annotations of exercises, and names of ours that the learner deleted do not count.

    Args:
        original: source of our module.
        answer: source of the learner's file.
        functions: names of all exercises of the module.

    Returns:
        The differences in the order of the learner's lines; of a file that does not parse only "syntax".
    """
    return list(_find_differences(original, answer, tuple(functions)))


@lru_cache(64)  # a file is compared for each of its exercises
def _find_differences(original: str, answer: str, functions: tuple[str, ...]) -> tuple[Difference, ...]:
    """The differences of two texts."""
    ours = drop_docstrings(original)
    try:
        theirs = drop_docstrings(answer)
    except SyntaxError as error:
        return (Difference("syntax", error.msg or "", error.lineno or 1),)
    differences = [
        Difference(kind, name, line) for kind, name, line in compare_definitions(ours, theirs, functions)
    ]
    for name in functions:
        node = find_function(theirs, name)
        if node is None:
            differences.append(Difference("missing", name, 0))
        elif describe_signature(node) != describe_signature(_find_function(ours, name)):
            differences.append(Difference("signature", name, node.lineno))
    return tuple(sorted(differences, key=lambda difference: difference.line))


def find_marks(text: str) -> dict[int, list[str]]:
    """Finds the comments that mark numbered steps.

    Returns:
        Line of a comment `# 1. ...` -> that comment, and the lines of comment that continue it.
    """
    comments = {
        token.start[0]: (token.string, token.line[: token.start[1]].strip() == "")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    marks: dict[int, list[str]] = {}
    for number, (comment, is_alone) in comments.items():
        if MARK.match(comment):
            marks[number] = [comment]
            following = number + 1
            while is_alone and following in comments and _continues(*comments[following]):
                marks[number].append(comments[following][0])
                following += 1
    return marks


def _find_function(tree: ast.Module, name: str) -> Function:
    """The function of a name; a ValueError if there is none."""
    node = find_function(tree, name)
    if node is None:
        raise ValueError(f"expected a function {name} at the top of the module, found none")
    return node


def _continues(comment: str, is_alone: bool) -> bool:
    """Tells if a comment on the line after a mark belongs to it."""
    return is_alone and not MARK.match(comment)


def _raises_unsolved(node: ast.AST) -> bool:
    """Tells if a statement raises `Unsolved`, called or not, under its own name or its module's."""
    if not isinstance(node, ast.Raise) or node.exc is None:
        return False
    error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    return ast.unparse(error).split(".")[-1] == "Unsolved"


def _append(parts: list[Part], path: str, module: ast.Module, node: ast.stmt) -> None:
    """Appends a statement to the last part if that is of the same file, else to a new one.

    Each part has the imports from `__future__` of its file, as it is compiled alone. A string that would
    become the docstring of a later part is left out.
    """
    if not parts or parts[-1].path != path:
        is_start = node is module.body[0]
        future = [] if is_start else [each for each in module.body if is_future(each)]
        parts.append(Part(path, ast.Module(body=[*future], type_ignores=[])))
        if is_text(node) and not is_start:
            return
    parts[-1].tree.body.append(node)
