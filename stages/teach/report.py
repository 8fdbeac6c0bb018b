"""Result of the check of one exercise, and its text for a learner."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from stages.teach import messages

Translate = Callable[[str], str]
"""Returns a sentence of `messages` in the learner's language, its format fields not yet filled in."""

TRANSLATED = ("action", "name", "reason", "stage")
"""Fields whose values are sentences of `messages`."""


class Result(NamedTuple):
    """Outcome of a check.

    Fields:
        exercise: its name.
        passed: True if the function is right as far as the check sees.
        kind: "" if passed, else a key of `messages.KINDS`.
        message: a sentence of `messages`.
        fields: what to fill in there; `fill_message` translates those of `TRANSLATED`.
        step: number of the step in the docstring, 0 if it is not known.
        input, expected, got: texts of a call that shows the failure; "" where there is none.
        output: beginning of what the learner's code printed.
        seconds: duration of the check.
        calls: calls of the function that were compared with ours.
        tests: tests that passed.
        digest: of the function that was checked (`record.digest_answer`); "" if it was changed meanwhile.
    """

    exercise: str
    passed: bool
    kind: str = ""
    message: str = ""
    fields: Mapping[str, Any] = MappingProxyType({})
    step: int = 0
    input: str = ""
    expected: str = ""
    got: str = ""
    output: str = ""
    seconds: float = 0.0
    calls: int = 0
    tests: int = 0
    digest: str = ""


def fail(exercise: str, kind: str, message: str, /, **fields: Any) -> Result:
    """Makes the result of a failed check.

    Example:
        >>> result = fail("dpo_loss", "purity", messages.CHANGED_STATE, function="dpo_loss", name="x")
        >>> result.passed, result.fields["name"]
        (False, 'x')
    """
    return Result(exercise, False, kind, message, fields)


def to_json(result: Result) -> str:
    """Writes a result as one line of JSON."""
    return json.dumps({**result._asdict(), "fields": dict(result.fields)})


def from_json(text: str) -> Result:
    """Reads the line that `to_json` wrote.

    Example:
        >>> from_json(to_json(Result("dpo_loss", True))) == Result("dpo_loss", True)
        True
    """
    return Result(**json.loads(text))


def describe_result(result: Result, translate: Translate = str) -> str:
    """Describes a result in lines of text.

    Args:
        result: of a check.
        translate: into the learner's language; the default leaves English.

    Returns:
        A line if it passed; else lines with kind, step, message and values.

    Example:
        >>> print(describe_result(fail("dpo_loss", "purity", messages.PRINTS, limit=1000)))
        dpo_loss: breaks purity
          the code printed more than 1000 KB
    """
    if result.passed:
        return translate(messages.PASSED).format(
            exercise=result.exercise,
            calls=_count(result.calls, messages.CALL, messages.CALLS, translate),
            tests=_count(result.tests, messages.TEST_PASSED, messages.TESTS_PASSED, translate),
            seconds=f"{result.seconds:.1f}",
        )
    kind = translate(messages.KINDS[result.kind])
    head = translate(messages.FAILED_AT_STEP if result.step else messages.FAILED)
    lines = [head.format(exercise=result.exercise, kind=kind, step=result.step)]
    lines.append(_indent(fill_message(result, translate)))
    for label, text in (
        (messages.INPUT, result.input),
        (messages.EXPECTED, result.expected),
        (messages.GOT, result.got),
        (messages.OUTPUT, result.output),
    ):
        if text:
            lines.append(_label(translate(label), text))
    return _show("\n".join(lines))


def fill_message(result: Result, translate: Translate = str) -> str:
    """Returns the message of a result with its fields, in the learner's language."""
    fields = {
        name: translate(value) if name in TRANSLATED else value for name, value in result.fields.items()
    }
    place = str(fields.get("place", ""))
    if re.match(rf"{messages.RESULT}\b", place):
        fields["place"] = translate(messages.RESULT) + place.removeprefix(messages.RESULT)
    return translate(result.message).format(**fields)


def _count(count: int, one: str, other: str, translate: Translate) -> str:
    """The sentence of a count: that of one, or of any other number."""
    return translate(one if count == 1 else other).format(count=count)


def _show(text: str) -> str:
    """A text without control characters, which a terminal would obey."""
    return "".join(each if each.isprintable() or each in "\n\t" else "?" for each in text)


def _label(label: str, text: str) -> str:
    """A labelled text: on the same line if it has one line, below otherwise."""
    if "\n" not in text:
        return _indent(f"{label} {text}" if label.endswith(":") else f"{label}{text}")
    return _indent(f"{label}\n{_indent(text)}")


def _indent(text: str) -> str:
    """The text with two blanks before each line."""
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
