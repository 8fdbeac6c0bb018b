"""Mistakes in typed flags, found before tyro parses them: one line with the flag, its value and the fix."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

NUMBERS: Mapping[type, str] = types.MappingProxyType({int: "a whole number", float: "a number"})
"""Types of numbers, as a message names them."""

BOOLEANS = ("true", "false", "1", "0", "yes", "no", "on", "off")
"""Values that users type after a flag that takes none."""


def find_mistake(kind: type, arguments: Sequence[str]) -> str:
    """Finds the first mistake in the arguments of a subcommand.

    Args:
        kind: a dataclass of flags.
        arguments: as typed.

    Returns:
        A clause; "" if there is no mistake that can be seen without parsing.

    Example:
        >>> @dataclasses.dataclass
        ... class Flags:
        ...     compile: bool = True
        ...     batch_size: int = 4
        >>> find_mistake(Flags, ["--compile", "false"])
        '--compile takes no value, got false; --no_compile turns it off'
        >>> find_mistake(Flags, ["--batchsize", "3"])
        '--batchsize: unknown flag; did you mean --batch_size?'
        >>> find_mistake(Flags, ["--batch_size", "four"])
        "--batch_size: expected a whole number, got 'four'"
    """
    hints = get_type_hints(kind, include_extras=True)
    positional = {name for name, hint in hints.items() if _is_positional(hint)}
    types_of = {name: _plain(hint) for name, hint in hints.items() if name not in positional}
    typed = list(_split(arguments))
    if any(flag in ("--help", "-h") for flag, _ in typed):
        return ""
    for flag, values in typed:
        if flag and (mistake := _mistake_of_flag(flag, values, types_of, bool(positional))):
            return mistake
        if not flag and values and not positional:
            return f"{values[0]!r} stands alone; each value follows its flag"
    given = {flag.lstrip("-").replace("-", "_") for flag, _ in typed}
    missing = [
        f"--{field.name}"
        for field in dataclasses.fields(kind)
        if field.name in types_of and field.name not in given and _is_required(field)
    ]
    return f"{', '.join(missing)} is required" if missing else ""


def _split(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields each flag and the words that follow it; words before the first flag come with ""."""
    flag, values = "", list[str]()
    for word in arguments:
        if word.startswith("--") or word == "-h":
            yield flag, values
            flag, equals, value = word.partition("=")
            values = [value] if equals else []
        else:
            values.append(word)
    yield flag, values


def _mistake_of_flag(flag: str, values: Sequence[str], hints: Mapping[str, Any], positional: bool) -> str:
    """Finds the mistake of one flag and its values.

    With positional arguments, words after a value are theirs.
    """
    name = flag[2:].replace("-", "_")
    switch = name.removeprefix("no_") if name not in hints else name
    if hints.get(switch) is bool:
        if not values or (positional and values[0].lower() not in BOOLEANS):
            return ""
        hint = f"--no_{switch} turns it off" + (f", --{switch} on" if name != switch else "")
        return f"{flag} takes no value, got {values[0]}; {hint}"
    if name not in hints:
        return f"{flag}: unknown flag{_suggestion(name, hints)}"
    several = get_origin(hints[name]) is tuple
    if not values and not several:
        return f"{flag} needs a value"
    if len(values) > 1 and not several and not positional:
        return f"{flag} takes one value, got {len(values)}: {' '.join(values[:3])}"
    for value in values if several else values[:1]:
        if mistake := _mistake_of_value(flag, value, hints[name]):
            return mistake
    return ""


def _suggestion(name: str, hints: Mapping[str, Any]) -> str:
    """Suggests the flag with the nearest name, if there is one."""
    names = [*hints, *(f"no_{flag}" for flag, hint in hints.items() if hint is bool)]
    near = difflib.get_close_matches(name, names, 1)
    return f"; did you mean --{near[0]}?" if near else ""


def _mistake_of_value(flag: str, value: str, hint: Any) -> str:
    """Finds the mistake of one value."""
    choices = list(_choices(hint))
    if str in choices or value in choices or (type(None) in choices and value == "None"):
        return ""
    numbers = [kind for kind in NUMBERS if kind in choices]
    if any(_parses(kind, value) for kind in numbers):
        return ""
    literals = [choice for choice in choices if isinstance(choice, str)]
    expected = [f"one of {', '.join(literals)}"] if literals else []
    expected += [NUMBERS[kind] for kind in numbers]
    return f"{flag}: expected {' or '.join(expected)}, got {value!r}" if expected else ""


def _parses(kind: type, value: str) -> bool:
    """Tells if a type of numbers accepts a text."""
    try:
        kind(value)
    except ValueError:
        return False
    return True


def _choices(hint: Any) -> Iterator[Any]:
    """Yields the types and literals that a value may have."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        for choice in get_args(hint):
            yield from _choices(choice)
    elif origin is Literal:
        yield from get_args(hint)
    elif origin is tuple:
        yield from _choices(get_args(hint)[0])
    else:
        yield hint


def _is_positional(hint: Any) -> bool:
    """Tells if a field is an argument without a flag."""
    return tyro.conf.Positional in getattr(hint, "__metadata__", ())


def _plain(hint: Any) -> Any:
    """Removes `Annotated` from a type."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _is_required(field: dataclasses.Field) -> bool:
    """Tells if a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
