"""Parse --template_kwargs, the variables that a user passes to a chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

CLOCK = "strftime_now"
"""Function that some templates call for the date, fixed here so that a text is the same every day."""


@dataclass(frozen=True)
class FixedDate:
    """`strftime_now` with a fixed date: called with a format, it returns the date in it."""

    _date: datetime

    def __call__(self, format: str) -> str:
        return self._date.strftime(format)


def template_variables(text: str | None) -> tuple[tuple[str, Any], ...]:
    """Reads `--template_kwargs`.

    Args:
        text: a JSON object; None gives no variable. "strftime_now" is a date, such as "2025-01-31".

    Returns:
        (name, value) pairs for `data_pipes.chat.chat.chat_template`.

    Raises:
        ValueError: if the text is not a JSON object, or "strftime_now" is not a date.

    Example:
        >>> template_variables('{"enable_thinking": false, "date_string": "1 Jan 2025"}')
        (('enable_thinking', False), ('date_string', '1 Jan 2025'))
    """
    if text is None:
        return ()
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"--template_kwargs: expected a JSON object, got {text!r:.200} ({error}); {EXPECTED}"
        ) from None
    if not isinstance(values, dict):
        raise ValueError(f"--template_kwargs: expected a JSON object, got {text:.200}; {EXPECTED}")
    return tuple((name, _fixed_date(value) if name == CLOCK else value) for name, value in values.items())


def check_variables(variables: Sequence[tuple[str, Any]], names: Iterable[str]) -> None:
    """Refuses a variable that the template does not use, which would change nothing.

    Args:
        variables: from `template_variables`.
        names: variables that the template uses.

    Raises:
        ValueError: for an unused variable; the message names it, and the template's variables.
    """
    known = sorted(set(names))
    for name, _ in variables:
        if name not in known:
            raise ValueError(
                f"--template_kwargs: the chat template uses no variable {name!r}; it uses "
                f"{', '.join(known) or 'none'}"
            )


def _fixed_date(value: Any) -> FixedDate:
    """Parses a date of JSON, in ISO format."""
    try:
        return FixedDate(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        raise ValueError(
            f'--template_kwargs: {CLOCK} must be a date such as "2025-01-31" (or "2025-01-31T12:00"), got '
            f"{value!r}"
        ) from None


EXPECTED = """give an object such as '{"enable_thinking": false}'"""
"""End of the error messages: a value that would be accepted."""
