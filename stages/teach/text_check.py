"""Find the mistakes of an answer that its text shows, before it runs."""

from __future__ import annotations

import ast
from pathlib import Path

from stages.teach import messages, overlay
from stages.teach.course import Exercise, exercises_of_module
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
    path = overlay.answer_path(folder, exercise.module)
    shown = str(path.relative_to(folder))
    name, function = exercise.name, exercise.function
    if not path.is_file():
        return fail(name, "missing", messages.NO_FILE, path=shown)
    text, mistake = overlay.read_answer(path)
    if mistake is not None:
        return fail(name, "syntax", messages.SYNTAX, path=shown, line=mistake[0], error=mistake[1])
    source = overlay.find_source(exercise.module)
    original = overlay.read_source(source)
    functions = [each.function for each in exercises_of_module(exercise.module)]
    for difference in find_differences(original, text, functions):
        if difference.name == function and difference.kind == "missing":
            return fail(name, "missing", messages.MISSING, path=shown, function=function)
        if difference.name == function and difference.kind == "signature":
            node = find_function(parse_source(original), function)
            expected = describe_signature(node) if node is not None else ""
            fields = {"path": shown, "line": difference.line, "function": function, "expected": expected}
            return fail(name, "signature", messages.SIGNATURE, **fields)
    node = find_function(parse_source(text), function)
    assert node is not None, "compared above"
    if not is_solved(text, function):
        line = _line_of_raise(node)
        return fail(name, "unsolved", messages.UNSOLVED, path=shown, line=line, function=function)
    parts = compose(original, str(source), text, str(path), [function])
    own = [statement for part in parts if part.path == str(path) for statement in part.tree.body]
    refusal = find_refusal(own, exercise.module)
    if refusal is not None:
        message = messages.REFUSED_IMPORT if refusal.is_import else messages.REFUSED
        return fail(name, "forbidden", message, path=shown, line=refusal.line, name=refusal.name)
    return None


def _line_of_raise(node: ast.AST) -> int:
    """Line of the first `raise Unsolved` in a function."""
    lines = [inner.lineno for inner in ast.walk(node) if isinstance(inner, ast.Raise)]
    return min(lines, default=getattr(node, "lineno", 0))
