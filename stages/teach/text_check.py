"""Find the mistakes of an answer that its text shows, before it runs."""

from __future__ import annotations

import ast
from pathlib import Path

from stages.teach import messages
from stages.teach.course import Exercise, exercises_of_module, module_path
from stages.teach.files import find_original, read_original, read_parsed
from stages.teach.messages import Sentence
from stages.teach.refusal import find_refusal
from stages.teach.report import Result, fail
from stages.teach.source import compose, find_differences, is_solved
from stages.teach.syntax import describe_signature, find_function, parse_source


def judge_text(folder: Path, exercise: Exercise) -> Result | None:
    """Finds the mistakes that the text of an answer shows; None if there is none, and it must be run.

    Args:
        folder: the edition.
        exercise: of the course.

    Returns:
        The failed result, or None.
    """
    shown, name, function = module_path(exercise.module), exercise.name, exercise.function
    try:
        answer = read_parsed(folder, exercise.module)
    except ValueError as error:
        return judge_unreadable(exercise, error.args[0])
    text, path = answer.text, str(answer.path)
    source, original = str(find_original(exercise.module)), read_original(exercise.module)
    functions = [each.function for each in exercises_of_module(exercise.module)]
    for difference in find_differences(original, text, functions):
        if difference.name == function and difference.kind == "missing":
            place = {"path": shown, "folder": str(folder)}
            return fail(name, "missing", messages.MISSING, **place, function=function, exercise=name)
        if difference.name == function and difference.kind == "signature":
            node = find_function(parse_source(original), function)
            expected = describe_signature(node) if node is not None else ""
            fields = {"path": shown, "line": difference.line, "function": function, "expected": expected}
            return fail(name, "signature", messages.SIGNATURE, **fields)
    tree = parse_source(text)
    star = next((each for each in tree.body if _imports_all(each)), None)
    if star is not None:
        return fail(name, "forbidden", messages.IMPORTS_ALL, path=shown, line=star.lineno)
    node = find_function(tree, function)
    assert node is not None, "compared above"
    if not is_solved(text, function):
        line = _line_of_raise(node)
        return fail(name, "unsolved", messages.UNSOLVED, path=shown, line=line, function=function)
    parts = compose(original, source, text, path, [function])
    own = [statement for part in parts if part.path == path for statement in part.tree.body]
    refusal = find_refusal(own, exercise.module)
    if refusal is not None:
        message = messages.REFUSED_IMPORT if refusal.is_import else messages.REFUSED
        return fail(name, "forbidden", message, path=shown, line=refusal.line, name=refusal.name)
    return None


def judge_unreadable(exercise: Exercise, problem: Sentence) -> Result:
    """Makes the result of a file that cannot be read.

    Args:
        exercise: of the course.
        problem: as `read_parsed` raises it.
    """
    kind = "syntax" if problem.text in (messages.SYNTAX, messages.NOT_TEXT) else "missing"
    fields = {name: str(value) for name, value in problem.fields.items()}
    return fail(exercise.name, kind, problem.text, **fields)


def _imports_all(node: ast.stmt) -> bool:
    """Tells if a statement imports all names of a module, which are not known before it is executed."""
    return isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)


def _line_of_raise(node: ast.AST) -> int:
    """Line of the first `raise Unsolved` in a function."""
    lines = [inner.lineno for inner in ast.walk(node) if isinstance(inner, ast.Raise)]
    return min(lines, default=getattr(node, "lineno", 0))
