"""Check values of flags against their fields' types, and make a dataclass of flags from a file's values."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from stages.run.options.ranges import Flags

Options = TypeVar("Options", bound="Flags")


def build(kind: type[Options], values: Mapping[str, Any], where: str) -> Options:
    """Builds a dataclass of flags from the values of a file.

    Args:
        kind: a dataclass whose fields are bool, int, float, str, Literal, a tuple of these, or one of them or
            None.
        values: field -> value, as JSON gives them; a list stands for a tuple; fields with defaults may be
            missing.
        where: the file, for messages.

    Returns:
        The dataclass.

    Raises:
        ValueError: if a field is unknown, missing or of another type; names the file and the field.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Flags:
        ...     names: tuple[str, ...]
        ...     rate: float = 0.1
        >>> build(Flags, {"names": ["a"], "rate": 1}, "config.json")
        Flags(names=('a',), rate=1)
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - set(fields)):
        raise ValueError(
            f"{where}: unknown flags {', '.join(unknown)}; the run was made by another version or stage"
        )
    missing = [
        name for name, field in fields.items() if name not in values and field.default is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}: the flags {', '.join(missing)} are missing; the file is damaged")
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not fits(value, hints[name]):
            raise ValueError(
                f"{where}: {name} is {json.dumps(value)[:60]}, expected {describe_type(hints[name])}"
            )
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )


def check_types(flags: Flags) -> None:
    """Checks the value of each flag against its field's type; Python does not when a dataclass is made.

    Args:
        flags: a dataclass of flags, as `build` takes it.

    Raises:
        ValueError: for a value of another type, or one that is none of the choices; it names the flag.

    Example:
        >>> from stages.run.options.pretrain import PretrainOptions
        >>> check_types(PretrainOptions(schedule="cosin"))
        Traceback (most recent call last):
        ValueError: --schedule: expected one of cosine, linear, wsd, constant, got 'cosin'
    """
    for name, hint in get_type_hints(type(flags)).items():
        value = getattr(flags, name)
        if not fits(value, hint):
            raise ValueError(f"--{name}: expected {describe_type(hint)}, got {value!r}")


def fits(value: Any, hint: Any) -> bool:
    """Tells if a value has the type of a field; a list or tuple fits a tuple.

    Args:
        value: of a flag.
        hint: the flag's type, without annotations.

    Example:
        >>> fits(3, float), fits(True, int), fits(["q"], tuple[str, ...])
        (True, False, True)
    """
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, choice) for choice in get_args(hint))
    if origin is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(fits(item, get_args(hint)[0]) for item in value)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def describe_type(hint: Any) -> str:
    """Describes the type of a field for a message.

    Example:
        >>> describe_type(int | None)
        'a whole number or null'
    """
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(choice) for choice in inside)
    if origin is Literal:
        return f"one of {', '.join(inside)}"
    if origin is tuple:
        return f"a list of {describe_type(inside[0])}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(hint, str(hint))
