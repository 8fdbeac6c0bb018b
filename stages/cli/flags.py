"""Flags from dataclasses: each field is a flag, the text below it is its help.

Mistakes are found here, before tyro parses, so that each is one line with the flag, its value and the fix.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from stages.run.options.ranges import check_ranges

Options = TypeVar("Options")

WORDS: Mapping[type, str] = types.MappingProxyType({int: "a whole number", float: "a number"})
"""Types that a value is checked against, as a person names them."""

SWITCH = ("true", "false", "1", "0", "yes", "no", "on", "off")
"""What people write after a flag that takes no value."""


def parse(kind: type[Options], name: str, arguments: Sequence[str]) -> Options:
    """Reads the flags of a subcommand; `--batch_size` and `--batch-size` are the same.

    Args:
        kind: a dataclass.
        name: of the subcommand.
        arguments: what follows it.

    Raises:
        SystemExit: with 0 after --help, with 2 (and one line on stderr) for a flag that is unknown, missing,
            or has a wrong value.
        ValueError: for a number out of the range beside its type.
    """
    told = mistake(kind, arguments)
    if told:
        print(f"intro2llm {name}: {told}; intro2llm {name} --help lists the flags", file=sys.stderr)
        raise SystemExit(2)
    parsed: Any = tyro.cli(
        _with_help(kind),
        prog=f"intro2llm {name}",
        description=inspect.getdoc(kind),
        args=list(arguments),
        use_underscores=True,
    )
    options = kind(**vars(parsed))
    check_ranges(options)
    return options


def help_texts(kind: type) -> dict[str, str]:
    """Reads the help of every flag, the text below its field, as one paragraph.

    Args:
        kind: a dataclass; a field without a text has that of its base.
    """
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            (definition,) = ast.parse(inspect.getsource(base)).body
            for field, text in itertools.pairwise(definition.body):  # type: ignore[attr-defined]
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    texts[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return texts


def _with_help(kind: type) -> type:
    """Returns a dataclass of the same fields that hands tyro their help as one paragraph each.

    tyro reads the text below a field by itself, but keeps its line breaks.
    """
    hints, texts = get_type_hints(kind, include_extras=True), help_texts(kind)
    fields = [
        (
            field.name,
            Annotated[hints[field.name], tyro.conf.arg(help=texts[field.name])],
            dataclasses.field(default=field.default),
        )
        for field in dataclasses.fields(kind)
    ]
    return dataclasses.make_dataclass(kind.__name__, fields, kw_only=True)


def mistake(kind: type, arguments: Sequence[str]) -> str:
    """Finds the first mistake in the arguments.

    Args:
        kind: a dataclass.
        arguments: as typed.

    Returns:
        A clause, or "" if there is none that can be seen without parsing.

    Example:
        >>> @dataclasses.dataclass
        ... class Flags:
        ...     compile: bool = True
        ...     batch_size: int = 4
        >>> mistake(Flags, ["--compile", "false"])
        '--compile takes no value, got false; --no_compile turns it off'
        >>> mistake(Flags, ["--batchsize", "3"])
        '--batchsize: unknown flag; did you mean --batch_size?'
        >>> mistake(Flags, ["--batch_size", "four"])
        "--batch_size: expected a whole number, got 'four'"
    """
    hints = get_type_hints(kind, include_extras=True)
    positional = {
        name for name, hint in hints.items() if tyro.conf.Positional in getattr(hint, "__metadata__", ())
    }
    hints = {
        name: get_args(hint)[0] if get_origin(hint) is Annotated else hint for name, hint in hints.items()
    }
    flags = {name: hint for name, hint in hints.items() if name not in positional}
    given = list(_given(arguments))
    if any(flag in ("--help", "-h") for flag, _ in given):
        return ""
    for flag, values in given:
        if not flag:
            if not positional and values:
                return f"{values[0]!r} stands alone; each value follows its flag"
            continue
        if told := _flag(flag, values, flags, bool(positional)):
            return told
    seen = {flag.lstrip("-").replace("-", "_") for flag, _ in given}
    lacking = [
        f"--{field.name}"
        for field in dataclasses.fields(kind)
        if field.name in flags and field.name not in seen and _required(field)
    ]
    return f"{', '.join(lacking)} is required" if lacking else ""


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(flag, the words after it), the words before the first flag under ""."""
    flag, values = "", list[str]()
    for word in arguments:
        if word.startswith("--") or word == "-h":
            yield flag, values
            flag, equals, value = word.partition("=")
            values = [value] if equals else []
        else:
            values.append(word)
    yield flag, values


def _flag(flag: str, values: Sequence[str], hints: Mapping[str, Any], positional: bool) -> str:
    """The mistake of one flag."""
    name = flag[2:].replace("-", "_")
    off = name.removeprefix("no_")
    switch = hints.get(name) is bool or (name != off and hints.get(off) is bool)
    if switch:
        if values and (not positional or values[0].lower() in SWITCH):
            return f"{flag} takes no value, got {values[0]}; --no_{off} turns it off" + (
                f", --{off} on" if name != off else ""
            )
        return ""
    if name not in hints:
        names = [*hints, *(f"no_{n}" for n, hint in hints.items() if hint is bool)]
        near = difflib.get_close_matches(name, names, 1)
        return f"{flag}: unknown flag" + (f"; did you mean --{near[0]}?" if near else "")
    many = get_origin(hints[name]) is tuple
    if not values and not many:
        return f"{flag} needs a value"
    if len(values) > 1 and not many and not positional:
        return f"{flag} takes one value, got {len(values)}: {' '.join(values[:3])}"
    return next(
        (told for value in values[: None if many else 1] if (told := _value(flag, value, hints[name]))), ""
    )


def _value(flag: str, value: str, hint: Any) -> str:
    """The mistake of one value."""
    choices = list(_choices(hint))
    if any(choice is str or (choice is type(None) and value == "None") for choice in choices):
        return ""
    literals = [choice for choice in choices if isinstance(choice, str)]
    if value in literals:
        return ""
    for kind in WORDS:
        if kind in choices:
            try:
                kind(value)
            except ValueError:
                continue
            return ""
    wanted = [f"one of {', '.join(literals)}"] if literals else []
    wanted += [words for kind, words in WORDS.items() if kind in choices]
    return f"{flag}: expected {' or '.join(wanted)}, got {value!r}" if wanted else ""


def _choices(hint: Any) -> Iterator[Any]:
    """Types and literals that a value may be of."""
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


def _required(field: dataclasses.Field) -> bool:
    """Whether there is no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
