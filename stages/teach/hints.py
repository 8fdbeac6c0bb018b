"""Hints on an exercise, one more at each call, from the docstring and from running the reference.

The six levels: 1 the formula; 2 the sentence of the next step; 3 the shapes and 4 the numbers after that step
in the docstring's example; 5 the code of that step; 6 the whole body.

The next step is the first one whose mark `# k.` in the learner's file has no code after it; in a file without
such a mark, the first step of all. Its hints are 2 to 5. After 5 the hints go on with the next such step,
even if this one is still not written, and the body comes after the last step. Where the example shows nothing
of a step, hint 3 says why, and 4 is left out.

The hints that were taken are kept by `hint_record`. After a reset of the exercise they start again with the
formula; a hint that is given again is not counted again.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from stages.teach import messages
from stages.teach.course import Exercise, find_exercise, module_path
from stages.teach.files import read_answer, read_original
from stages.teach.hint_record import (
    HINTS,
    Given,
    back_up_hints,
    count_given,
    read_hints,
    record_hint,
    select_current,
)
from stages.teach.marks import Mark, cut_step, find_written, list_marks, list_numbers
from stages.teach.prose import translate_source
from stages.teach.record import read_record
from stages.teach.sections import find_formula, find_sentences
from stages.teach.show import cut_body
from stages.teach.syntax import find_function, parse_source
from stages.teach.trace import Trace, run_trace
from stages.teach.tracer import StepTrace, Variable
from stages.teach.translate import read_catalogues, say, say_error, translate

RunTrace = Callable[[Sequence[str]], list[Trace]]
"""Runs the examples of exercises."""

FORMULA, SENTENCE, SHAPES, NUMBERS, CODE, BODY = range(1, 7)
"""Levels of hints."""

SUBJECTS: Mapping[int, str] = MappingProxyType(
    {
        FORMULA: messages.HINT_FORMULA,
        SENTENCE: messages.HINT_SENTENCE,
        SHAPES: messages.HINT_SHAPES,
        NUMBERS: messages.HINT_NUMBERS,
        CODE: messages.HINT_CODE,
        BODY: messages.HINT_BODY,
    }
)
"""Level -> what the hint is about."""


class Reference(NamedTuple):
    """Our function as text.

    Fields:
        exercise: which.
        text: source of its module.
        docstring: of the function.
        marks: of its steps.
    """

    exercise: Exercise
    text: str
    docstring: str
    marks: list[Mark]


class Hint(NamedTuple):
    """A hint to print.

    Fields:
        level: from 1 to 6.
        step: number of the step; 0 for the formula and the body.
        text: its lines.
    """

    level: int
    step: int
    text: str


def give_hint(folder: Path, name: str, *, trace: RunTrace = run_trace) -> str:
    """Returns the next hint on an exercise, and records that it was given.

    Args:
        folder: the edition.
        name: of the exercise.
        trace: runs the example.

    Returns:
        Lines of text; the last one says how many hints on this exercise were taken.

    Raises:
        FileNotFoundError: if the folder is no edition.
        ValueError: for an unknown exercise, or a damaged record of the edition.
        OSError: if the record of hints cannot be written.
    """
    lang = read_record(folder).lang
    reference = read_reference(find_exercise(name))
    hints, notes = _read_hints(folder, lang)
    steps, note = _list_open(folder, reference, lang)
    given = hints.get(name, ())
    current = select_current(given)
    hint = make_hint(reference, current, steps, lang=lang, trace=trace)
    if (hint.level, hint.step) not in [(each.level, each.step) for each in current]:
        record_hint(folder, name, hint.level, hint.step)
        given = (*given, Given(hint.level, hint.step, ""))
    count = say(messages.HINT_COUNT, lang, count=count_given(given))
    return "\n".join([*notes, *note, hint.text, count])


def choose_hint(given: Sequence[Given], steps: Sequence[int]) -> tuple[int, int]:
    """Chooses the level of the next hint and its step.

    Args:
        given: the hints on the exercise so far.
        steps: numbers of the steps to give hints on, in order.

    Returns:
        (level, step); the step is 0 for the formula, the first hint, and for the body, the last one.

    Example:
        >>> choose_hint([Given(1, 0, ""), Given(2, 3, "")], [3, 4])
        (3, 3)
        >>> choose_hint([Given(1, 0, ""), Given(5, 3, "")], [3, 4])
        (2, 4)
    """
    if not given:
        return FORMULA, 0
    for step in steps:
        level = max((each.level for each in given if each.step == step), default=FORMULA)
        if level < CODE:
            return level + 1, step
    return BODY, 0


def list_open_steps(reference: Reference, answer: str) -> list[int]:
    """Lists the steps to give hints on: those that are marked in the answer and have no code after the mark.

    Args:
        reference: our function.
        answer: source of the learner's file, which parses.

    Returns:
        Numbers in ascending order. Without such a mark: all steps. A step without code of its own in ours (a
        loop that goes on) is no step to give hints on.
    """
    function = reference.exercise.function
    steps = _list_steps(reference)
    marks = list_marks(answer, function)
    unwritten = set(list_numbers(marks)) - find_written(answer, function, marks)
    return [step for step in steps if step in unwritten] or steps


def make_hint(
    reference: Reference, given: Sequence[Given], steps: Sequence[int], *, lang: str, trace: RunTrace
) -> Hint:
    """Makes the next hint.

    Args:
        reference: our function.
        given: the hints on the exercise so far.
        steps: numbers of the steps to give hints on.
        lang: the learner's language.
        trace: runs the example; called for the levels 3 and 4.

    Returns:
        Level, step and text.
    """
    level, step = choose_hint(given, steps)
    shown = Trace(reference.exercise.name, ())
    if level in (SHAPES, NUMBERS):
        shown = trace([reference.exercise.name])[0]
        if level == NUMBERS and not get_step(shown, step).variables:
            level = CODE
    head = translate(messages.HINT_OF_STEP if step else messages.HINT, lang).format(
        exercise=reference.exercise.name,
        level=level,
        step=step,
        steps=max(list_numbers(reference.marks), default=0),
        subject=translate(SUBJECTS[level], lang),
    )
    lines = describe_hint(reference, level, step, shown, lang)
    return Hint(level, step, "\n".join([head, *(f"  {line}".rstrip() for line in lines)]))


def describe_hint(reference: Reference, level: int, step: int, trace: Trace, lang: str) -> list[str]:
    """Returns the lines of a hint, without its head.

    Args:
        reference: our function.
        level: from 1 to 6.
        step: number of the step, for the levels 2 to 5.
        trace: of the exercise, for the levels 3 and 4.
        lang: the learner's language.

    Returns:
        The lines, not indented.
    """
    if level == FORMULA:
        paragraphs = find_formula(reference.docstring).split("\n\n")
        return "\n\n".join(translate(paragraph, lang) for paragraph in paragraphs).splitlines()
    if level == SENTENCE:
        return [translate(find_sentences(reference.docstring)[step], lang)]
    if level in (SHAPES, NUMBERS):
        return list(_describe_values(get_step(trace, step), trace.error, level, lang))
    text, function = translate_source(reference.text, read_catalogues(lang)), reference.exercise.function
    if level == CODE:
        return cut_step(text, list_marks(text, function), step).splitlines()
    return cut_body(text, function)


def read_reference(exercise: Exercise) -> Reference:
    """Reads our function of an exercise, without importing it."""
    text = read_original(exercise.module)
    node = find_function(parse_source(text), exercise.function)
    assert node is not None, "a rule holds the course to the source"
    return Reference(exercise, text, ast.get_docstring(node) or "", list_marks(text, exercise.function))


def get_step(trace: Trace, number: int) -> StepTrace:
    """Returns a step of a trace; of an example that could not be run it is empty."""
    return next((step for step in trace.steps if step.number == number), StepTrace(number, 0, (), ()))


def _list_steps(reference: Reference) -> list[int]:
    """The numbers of the steps that have code."""
    written = find_written(reference.text, reference.exercise.function, reference.marks)
    return [number for number in list_numbers(reference.marks) if number in written]


def _list_open(folder: Path, reference: Reference, lang: str) -> tuple[list[int], list[str]]:
    """The steps to give hints on, and a line if the learner's file cannot be read."""
    module = reference.exercise.module
    try:
        return list_open_steps(reference, read_answer(folder, module).text), []
    except SyntaxError as error:
        fields = {"path": module_path(module), "line": error.lineno or 1, "error": error.msg}
        note = say(messages.HINT_SYNTAX, lang, **fields)
    except ValueError as error:
        note = say_error(error, lang)
    return _list_steps(reference), [note]


def _read_hints(folder: Path, lang: str) -> tuple[dict[str, tuple[Given, ...]], list[str]]:
    """The hints taken so far; a damaged file is moved to a backup, and a line says so."""
    try:
        return read_hints(folder), []
    except ValueError:
        backup = back_up_hints(folder)
    return {}, [translate(messages.HINT_DAMAGED, lang).format(path=HINTS, backup=backup)]


def _describe_values(step: StepTrace, error: str, level: int, lang: str) -> Iterator[str]:
    """Yields the lines on the values of a step: its variables, then the arguments of the call."""
    if not step.variables:
        reason = messages.HINT_NOTHING_ASSIGNED if step.visits else messages.HINT_NOT_EXECUTED
        yield translate(messages.HINT_NO_TRACE if error else reason, lang).format(error=error)
        return
    for variable in step.variables:
        yield _describe_variable(variable, level, lang)
    if step.visits > 1:
        yield translate(messages.HINT_VISITS, lang).format(visits=step.visits)
    if step.arguments:
        yield translate(messages.HINT_ARGUMENTS, lang)
    for variable in step.arguments:
        yield f"  {_describe_variable(variable, level, lang)}"


def _describe_variable(variable: Variable, level: int, lang: str) -> str:
    """A variable in one line."""
    name = variable.name or translate(messages.HINT_RETURNED, lang)
    return f"{name}: {variable.shape}" if level == SHAPES else f"{name} = {variable.numbers}"
