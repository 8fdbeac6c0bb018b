"""Read the fields of a request's JSON object; a null is a missing field, as in OpenAI's API."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from stages.serve.errors import RequestError

LONGEST_QUOTE = 60
"""Characters of a value that a message quotes."""


def parse_body(body: bytes) -> dict[str, Any]:
    """Parse the JSON object of a request.

    Args:
        body: UTF-8.

    Returns:
        Its fields, without those that are null.

    Raises:
        RequestError: if it is no JSON object, has a number that is not finite, or a name twice in an object.

    Example:
        >>> parse_body(b'{"n": 2, "stop": null}')
        {'n': 2}
    """
    try:
        fields = json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body must be a JSON object: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError(f"the body must be a JSON object, got a {type(fields).__name__}")
    return {name: value for name, value in fields.items() if value is not None}


def refuse_fields(
    fields: Mapping[str, Any],
    read: Collection[str],
    neutral: Mapping[str, Collection[Any]],
    *,
    inside: str = "",
) -> None:
    """Refuse fields that are unknown, or that would change the result and are not implemented.

    Args:
        fields: the request's.
        read: names that the caller reads, or that change nothing.
        neutral: name -> the values that change nothing.
        inside: field of which these are the fields; "" for the request itself.

    Raises:
        RequestError: it names the field, and for an unknown one the nearest name.
    """
    for name, value in fields.items():
        if name in neutral:
            if not any(_is_same(value, allowed) for allowed in neutral[name]):
                raise RequestError(
                    f"{name}: not supported by this server, got {quote(value)}; leave it out", param=name
                )
        elif name not in read:
            param = f"{inside}.{name}" if inside else name
            fix = suggest_field(name, [*read, *neutral])
            raise RequestError(f"{param}: unknown field; {fix}", param=param, code="unknown_parameter")


def suggest_field(name: str, known: Sequence[str]) -> str:
    """Return the fix for a field that is not read: the nearest name, or to leave it out."""
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else "leave it out"


def read_integer(
    fields: Mapping[str, Any], name: str, default: Any, low: int, high: int | None = None
) -> Any:
    """Read an integer.

    Args:
        fields: the request's.
        name: the field's.
        default: what a missing field means.
        low: the smallest integer.
        high: the largest; None for no limit.

    Returns:
        The integer, or the default.

    Raises:
        RequestError: for anything else.
    """
    value = fields.get(name, default)
    if name not in fields:
        return value
    if type(value) is not int or value < low or (high is not None and value > high):
        bound = f"at least {low}" if high is None else f"{low} to {high}"
        raise RequestError(f"{name}: expected an integer, {bound}, got {quote(value)}", param=name)
    return value


def read_number(fields: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    """Read a number.

    Args:
        fields: as in `read_integer`.
        name: as in `read_integer`.
        default: as in `read_integer`.
        low: the smallest number.
        high: the largest.

    Returns:
        The number, or the default.

    Raises:
        RequestError: for anything else.
    """
    value = fields.get(name, default)
    if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
        raise RequestError(f"{name}: expected a number, {low:g} to {high:g}, got {quote(value)}", param=name)
    return float(value)


def read_boolean(fields: Mapping[str, Any], name: str, *, inside: str = "") -> bool:
    """Read true or false; false by default.

    Args:
        fields: as in `read_integer`.
        name: as in `read_integer`.
        inside: as in `refuse_fields`.

    Raises:
        RequestError: for anything else.
    """
    value = fields.get(name, False)
    if type(value) is not bool:
        param = f"{inside}.{name}" if inside else name
        raise RequestError(f"{param}: expected true or false, got {quote(value)}", param=param)
    return value


def read_strings(fields: Mapping[str, Any], name: str, most: int) -> tuple[str, ...]:
    """Read a string or a list of strings, none of which is empty; () by default.

    Raises:
        RequestError: for anything else, and for more than `most`.
    """
    value = fields.get(name, [])
    strings = [value] if isinstance(value, str) else value
    good = isinstance(strings, list) and all(isinstance(s, str) and s for s in strings)
    if not good or len(strings) > most:
        raise RequestError(
            f"{name}: expected a string or up to {most} strings, none of them empty, got {quote(value)}",
            param=name,
        )
    return tuple(strings)


def read_object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Read a JSON object, without its nulls; {} by default.

    Raises:
        RequestError: for anything else.
    """
    value = fields.get(name, {})
    if not isinstance(value, dict):
        raise RequestError(f"{name}: expected a JSON object, got {quote(value)}", param=name)
    return {key: x for key, x in value.items() if x is not None}


def quote(value: Any) -> str:
    """Return the beginning of a value as JSON, for a message."""
    text = json.dumps(value)
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "..."


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's parser would take."""
    raise ValueError(f"{name} is not JSON")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; refuse a name that it has twice, of which the first value would be dropped."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"{quote(name)} is there twice")
        fields[name] = value
    return fields


def _is_same(value: Any, allowed: Any) -> bool:
    """Tell whether a JSON value is an allowed one; 0 and 0.0 are the same, 0 and false are not."""
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
