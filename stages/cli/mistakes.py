"""Find mistakes in command-line flags before tyro parses them: one line with flag, value and fix."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

NUMBERS: Mapping[type, str] = types.MappingProxyType({int: "a whole number", float: "a number"})
"""Numeric types, as messages name them."""

BOOLEANS = ("true", "false", "1", "0", "yes", "no", "on", "off")
"""Values that users give to a boolean flag, which takes none."""


OFF: Sequence[tuple[Any, str]] = ((False, "False"), ("none", "none"), (type(None), "None"))
"""What a flag with values may allow -> the value that turns it off."""


def find_mistake(flags_class: type, arguments: Sequence[str]) -> str:
    """Finds the first mistake in the arguments of a subcommand.

    Args:
        flags_class: a dataclass with one field for each flag.
        arguments: the command line after the subcommand.

    Returns:
        An error message; "" if there is no mistake that can be seen without parsing.

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
    all_hints = get_type_hints(flags_class, include_extras=True)
    hints = {name.rstrip("_"): hint for name, hint in all_hints.items()}  # `with_` is --with
    flag_types = {name: _strip_annotated(hint) for name, hint in hints.items() if not _is_positional(hint)}
    positional = [name.upper() for name in hints if name not in flag_types]
    required = [
        field.name.upper()
        for field in dataclasses.fields(flags_class)
        if field.name not in flag_types and _is_required(field)
    ]
    has_positional = bool(positional)
    groups = list(split_at_flags(arguments))
    if any(flag in ("--help", "-h") for flag, _ in groups):
        return ""
    for flag, values in groups:
        if flag and len(values) != 1 and _is_repeatable(hints.get(name_of(flag))):
            return f"{flag} takes one value, got {len(values)}; repeat the flag for more"
        if flag and (mistake := _find_flag_mistake(flag, values, flag_types, has_positional)):
            return mistake
        if not flag and values and not has_positional:
            return f"unexpected {values[0]!r} before the first flag{_suggest_hyphens(values[0], flag_types)}"
    used = [name_of(flag) for flag, _ in groups]
    for name, hint in flag_types.items():
        if get_origin(hint) is tuple and used.count(name) > 1 and not _is_repeatable(hints[name]):
            return f"--{name} is given {used.count(name)} times; give it once, with all its values after it"
    missing = [
        f"--{field.name}"
        for field in dataclasses.fields(flags_class)
        if field.name in flag_types and field.name not in used and _is_required(field)
    ]
    words = [word for flag, values in groups for word in _positional_words(flag, values, flag_types)]
    for word in words:
        if word.startswith("-") and not _parses_as(float, word):
            return f"unexpected {word!r}{_suggest_hyphens(word, flag_types)}"
    for word, name in zip(words, positional, strict=False):
        if mistake := _find_value_mistake(name, word, _strip_annotated(hints[name.lower()])):
            return mistake
    missing = [*required[len(words) :], *missing]
    if missing:
        return f"{', '.join(missing)} {'are' if len(missing) > 1 else 'is'} required"
    takes_more = bool(positional) and get_origin(_strip_annotated(hints[positional[-1].lower()])) is tuple
    if len(words) > len(positional) and not takes_more:
        return f"unexpected {words[len(positional)]!r} after {' '.join(positional)}"
    return ""


def name_of(flag: str) -> str:
    """Returns the name of a flag, as its field is called.

    Example:
        >>> name_of("--batch-size")
        'batch_size'
    """
    return flag.lstrip("-").replace("-", "_")


def _positional_words(flag: str, values: list[str], flag_types: Mapping[str, Any]) -> list[str]:
    """Returns the words that are positional arguments: all but the values of the flag before them."""
    if not flag or not values:
        return values
    hint = flag_types.get(name_of(flag), bool)  # --no_NAME is no field, and takes no value either
    if get_origin(hint) is tuple:
        return []
    return values if hint is bool else values[1:]


def split_at_flags(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields each flag and the words that follow it; words before the first flag are yielded with "".

    Example:
        >>> list(split_at_flags(["--seed=1", "--lora_targets", "q", "v"]))
        [('', []), ('--seed', ['1']), ('--lora_targets', ['q', 'v'])]
    """
    flag, values = "", list[str]()
    for word in arguments:
        if word.startswith("--") or word == "-h":
            yield flag, values
            flag, equals, value = word.partition("=")
            values = [value] if equals else []
        else:
            values.append(word)
    yield flag, values


def _find_flag_mistake(
    flag: str, values: Sequence[str], flag_types: Mapping[str, Any], has_positional: bool
) -> str:
    """Finds a mistake in one flag or its values; "" if there is none.

    If the subcommand takes positional arguments, extra words after a value are taken for those.
    """
    name = name_of(flag)
    switch = name.removeprefix("no_") if name not in flag_types else name
    if flag_types.get(switch) is bool:
        if not values or (has_positional and values[0].lower() not in BOOLEANS):
            return ""
        fix = f"--no_{switch} turns it off" + (f", --{switch} on" if name != switch else "")
        return f"{flag} takes no value, got {values[0]}; {fix}"
    if name not in flag_types:
        return f"{flag}: unknown flag{_suggest_flag(name, flag_types)}"
    takes_several = get_origin(flag_types[name]) is tuple
    if not values and not takes_several:
        return f"{flag} needs a value"
    if len(values) > 1 and not takes_several and not has_positional:
        return f"{flag} takes one value, got {len(values)}: {' '.join(values[:3])}"
    own_values = values if takes_several else values[:1]
    for value in own_values:
        if mistake := _find_value_mistake(flag, value, flag_types[name]):
            return mistake
    return ""


def suggest_name(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Suggests the most similar name; "" if none is similar.

    Args:
        name: that is unknown.
        known: names to choose from.
        prefix: written before the name, such as --.

    Returns:
        The end of an error message.

    Example:
        >>> suggest_name("sed", ["seed", "beta"], "--")
        '; did you mean --seed?'
    """
    similar = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {prefix}{similar[0]}?" if similar else ""


def _suggest_flag(name: str, flag_types: Mapping[str, Any]) -> str:
    """Suggests the flag with the most similar name, or the value that turns a flag with values off."""
    own = name.removeprefix("no_")
    if own != name and own in flag_types:
        allowed = list(types_and_literals(flag_types[own]))
        off = next((value for kind, value in OFF if kind in allowed), None)
        return f"; write --{own} {off}" if off else f"; did you mean --{own}?"
    names = [*flag_types, *(f"no_{flag}" for flag, hint in flag_types.items() if hint is bool)]
    return suggest_name(name, names, "--")


def _suggest_hyphens(word: str, flag_types: Mapping[str, Any]) -> str:
    """Suggests the flag that a word without two hyphens was meant to be, such as -seed or seed=1."""
    name = name_of(word.partition("=")[0])
    if not word.startswith("-") and "=" not in word:
        return "; each value follows its flag"
    return _suggest_flag(name, flag_types) or "; a flag begins with --"


def _find_value_mistake(flag: str, value: str, hint: Any) -> str:
    """Finds a mistake in one value; "" if its type accepts it."""
    allowed = list(types_and_literals(hint))
    if str in allowed or value in allowed or (type(None) in allowed and value == "None"):
        return ""
    numbers = [number_type for number_type in NUMBERS if number_type in allowed]
    if any(_parses_as(number_type, value) for number_type in numbers):
        return ""
    literals = [literal for literal in allowed if isinstance(literal, str)]
    expected = [f"one of {', '.join(literals)}"] if literals else []
    expected += [NUMBERS[number_type] for number_type in numbers]
    return f"{flag}: expected {' or '.join(expected)}, got {value!r}" if expected else ""


def _parses_as(number_type: type, value: str) -> bool:
    """Checks if a numeric type accepts a string."""
    try:
        number_type(value)
    except ValueError:
        return False
    return True


def types_and_literals(hint: Any) -> Iterator[Any]:
    """Yields the types and literals that a type hint allows.

    Example:
        >>> list(types_and_literals(int | Literal["all"] | None))
        [<class 'int'>, 'all', <class 'NoneType'>]
    """
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        for member in get_args(hint):
            yield from types_and_literals(member)
    elif origin is Literal:
        yield from get_args(hint)
    elif origin is tuple:
        yield from types_and_literals(get_args(hint)[0])
    else:
        yield hint


def _is_positional(hint: Any) -> bool:
    """Checks if a field is a positional argument."""
    return tyro.conf.Positional in getattr(hint, "__metadata__", ())


def _is_repeatable(hint: Any) -> bool:
    """Checks if each use of a flag adds to its values."""
    return tyro.conf.UseAppendAction in getattr(hint, "__metadata__", ())


def _strip_annotated(hint: Any) -> Any:
    """Removes `Annotated` from a type."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _is_required(field: dataclasses.Field) -> bool:
    """Checks if a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
