"""The variables of a chat template that a user gives on the command line."""

from __future__ import annotations

import json
from typing import Any


def template_variables(text: str | None) -> tuple[tuple[str, Any], ...]:
    """Reads `--template_kwargs`.

    Args:
        text: a JSON object; None gives no variable.

    Returns:
        (name, value) pairs for `data_pipes.chat.chat_template`.

    Raises:
        ValueError: if the text is no JSON object.

    Example:
        >>> template_variables('{"enable_thinking": false, "date_string": "1 Jan 2025"}')
        (('enable_thinking', False), ('date_string', '1 Jan 2025'))
    """
    if text is None:
        return ()
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--template_kwargs: {text!r} is no JSON ({error}); {EXPECTED}") from None
    if not isinstance(values, dict):
        raise ValueError(f"--template_kwargs: expected a JSON object, got {text}; {EXPECTED}")
    return tuple(values.items())


EXPECTED = """give an object such as '{"enable_thinking": false}'"""
"""What to type instead."""
