"""Run the example of a docstring with a learner's function."""

from __future__ import annotations

import ast
import doctest
from types import ModuleType
from typing import Any

import torch

from stages.teach import messages
from stages.teach.calls import Record, describe_error
from stages.teach.course import Exercise
from stages.teach.files import Answer, read_original
from stages.teach.report import Result, fail
from stages.teach.syntax import find_function
from stages.teach.unsolved import Unsolved
from stages.teach.verdict import describe_unsolved, judge_record


def run_example(module: ModuleType, exercise: Exercise, record: Record, answer: Answer) -> Result | None:
    """Runs the examples of our docstring.

    Args:
        module: the exercise's, with the learner's function in it.
        exercise: of the course.
        record: of the comparison.
        answer: the learner's file.

    Returns:
        The failure, or None.
    """
    node = find_function(ast.parse(read_original(exercise.module)), exercise.function)
    text = (ast.get_docstring(node) if node is not None else None) or ""
    names = {**vars(module), "torch": torch}
    example = doctest.DocTestParser().get_doctest(text, names, exercise.function, None, 0)
    runner = Runner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    runner.run(example, out=lambda _: None)
    if record.reports or record.refused:
        return judge_record(record, exercise, answer)
    if not runner.failed_examples:
        return None
    source, want, got, error = runner.failed_examples[0]
    if isinstance(error, Unsolved):
        return describe_unsolved(exercise, answer)
    return fail(exercise.name, "value", messages.DOCTEST)._replace(
        input=source.strip(), expected=want.strip(), got=got.strip()
    )


class Runner(doctest.DocTestRunner):
    """Runs examples and keeps the failures: source, wanted text, text that was printed, error."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.failed_examples: list[tuple[str, str, str, BaseException | None]] = []

    def report_failure(self, out: Any, test: Any, example: doctest.Example, got: str) -> None:
        """Keeps an example that printed something else."""
        self.failed_examples.append((example.source, example.want, got, None))

    def report_unexpected_exception(
        self, out: Any, test: Any, example: doctest.Example, exc_info: Any
    ) -> None:
        """Keeps an example that raised."""
        self.failed_examples.append((example.source, example.want, describe_error(exc_info[1]), exc_info[1]))
