"""Jinja2 templates that strangers wrote, run in a sandbox: no access to Python, a bound on rounds and on text.

The environment is the one that chat templates are written for, transformers': trim_blocks, lstrip_blocks, loop
controls, `raise_exception`, `tojson`, {% generation %} blocks. It has no clock, so `strftime_now` is undefined:
templates that ask whether it is take the date that is written in them.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

ROUNDS = 100_000
"""Rounds of all loops, macros and blocks together that one text may take."""

CHARACTERS = 1 << 24
"""Characters that one text may have, and all that is written or joined on the way to it."""

LARGE = 1 << 26
"""Product of the sizes of two things that may be multiplied, as a text and what is put in for each of its letters."""

GROWING = frozenset((
    "center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "replace", "rjust", "tojson",
    "translate", "wordwrap", "zfill",
))  # fmt: skip
"""Methods and filters that can write far more than they read."""

TOO_LARGE = "it makes a text or a number too large for a template"

OPEN, CLOSE, BEGIN, END, HERE = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
"""Code points that are no characters, for use between programs (Unicode 23.7). OPEN number CLOSE stands for a text that
the template shall not see; a {% generation %} block leaves BEGIN and END around what it holds; HERE marks a place in a
message."""


class Program(NamedTuple):
    """A template, compiled.

    Fields:
        run: what renders it.
        meter: the name under which it calls what counts its rounds and characters.
        names: the variables that it reads and does not set itself.
        marked: it has {% generation %} blocks.
    """

    run: jinja2.Template
    meter: str
    names: frozenset[str]
    marked: bool


def compiled(source: str) -> Program:
    """Compiles a template in which everything that repeats or grows is counted.

    Nobody can tell from a program whether it will end, so its syntax tree is changed: every loop, macro and block
    counts its rounds, and what is written or joined counts its characters.

    Args:
        source: jinja2.

    Returns:
        Program.

    Raises:
        ValueError: if it does not compile, with the line.

    Example:
        >>> compiled("Hello{{ name")
        Traceback (most recent call last):
        ...
        ValueError: the chat template does not compile: line 1: unexpected end of template, expected 'end of print
        statement'.
    """
    environment = _environment()
    try:
        tree = environment.parse(source)
        _check_names(node.attr for node in tree.find_all(nodes.NSRef))
        names = frozenset(meta.find_undeclared_variables(tree))
        marked = any(data.data == BEGIN for data in tree.find_all(nodes.TemplateData))
        meter = _unused("_meter", source)
        _count(tree, meter)
        tree.set_environment(environment)
        code = environment.compile(tree, "template", "template")
    except (jinja2.TemplateError, RecursionError, SyntaxError, UnicodeError, MemoryError) as error:
        line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
        what = "it is nested too deeply" if isinstance(error, RecursionError | MemoryError) else error
        raise ValueError(f"the chat template does not compile: {line}{what}") from None
    made = jinja2.Template.from_code(environment, code, environment.make_globals(None))
    return Program(made, meter, names, marked)


def run(program: Program, **variables: Any) -> str:
    """Runs a template.

    Args:
        program: from `compiled`.
        variables: what it may name: `messages`, `add_generation_prompt`, ...; plain values only.

    Returns:
        The text, with BEGIN and END of {% generation %} blocks in it.

    Raises:
        ValueError: if it raises anything, takes more than 100,000 rounds, calls itself without end, or writes more than
            16 Mi characters.

    Example:
        >>> run(compiled("{% for m in messages %}{{ m.content }}!{% endfor %}"), messages=[{"content": "Hi"}])
        'Hi!'
    """
    meter, bounded = _meters()
    try:
        return "".join(_within(program.run.generate(**{**variables, program.meter: meter, "range": bounded})))
    except RecursionError:
        raise ValueError("the chat template failed: it calls itself without end") from None
    except Exception as error:  # whatever a stranger's program may raise
        raise ValueError(f"the chat template failed: {_words(error)}") from None


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}: the assistant's part, between two marks."""

    tags = frozenset(["generation"])  # type: ignore[assignment]

    def parse(self, parser: Any) -> list[nodes.Node]:
        """Puts a mark before and behind the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([nodes.TemplateData(mark)]).set_lineno(line) for mark in (BEGIN, END))
        return [begin, nodes.Scope(body).set_lineno(line), end]


class _SandboxError(jinja2.TemplateError):
    """What a template asked to raise, or may not do."""


class _Sandbox(ImmutableSandboxedEnvironment):  # type: ignore[misc]
    """Refuses sums and products that would fill the memory before their characters can be counted."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def call(__self, __context: Any, __function: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a function or a method, within bounds."""
        if (name := getattr(__function, "__name__", "")) in GROWING:
            owner = getattr(getattr(__function, "__wrapped__", __function), "__self__", "")
            _refuse_large(name, owner, *args, *kwargs.values())
        return super().call(__context, __function, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Computes `left operator right`, within bounds."""
        if operator == "+" and isinstance(left, str | list) and len(left) + len(right) > CHARACTERS:
            raise _SandboxError(TOO_LARGE)
        if operator == "**" and (_size(left) > CHARACTERS or _size(right) > 64):
            raise _SandboxError(TOO_LARGE)
        if operator == "*" or (operator == "%" and isinstance(left, str)):
            _refuse_large("format" if operator == "%" else "", left, right)
        return super().call_binop(context, operator, left, right)


def _environment() -> ImmutableSandboxedEnvironment:
    """What templates expect to find, without a clock or filler text."""
    made = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.filters |= {name: _bounded(name, made.filters[name]) for name in GROWING & made.filters.keys()}
    made.globals["raise_exception"] = _raise
    made.globals["namespace"] = _namespace
    del made.globals["lipsum"]
    return made


def _count(tree: nodes.Template, meter: str) -> None:
    """Puts the meter into every loop, macro and block, and around all that is written or joined."""

    def call(arguments: list, line: int) -> Any:
        return nodes.Call(nodes.Name(meter, "load"), arguments, [], None, None).set_lineno(line)

    every: list[Any] = list(tree.find_all(nodes.Node))
    for node in every:
        if isinstance(node, nodes.Concat):
            node.nodes = [call(node.nodes, node.lineno)]
        elif isinstance(node, nodes.Output):
            node.nodes = [x if isinstance(x, nodes.TemplateData) else call([x], x.lineno) for x in node.nodes]
        elif isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block):
            node.body = [nodes.Output([call([], node.lineno)]).set_lineno(node.lineno), *node.body]
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.Or(call([], node.lineno), node.test).set_lineno(node.lineno)


def _meters() -> tuple[Callable[..., Any], Callable[..., range]]:
    """The meter of one run, which counts a round, or the characters of values if it is given any; and a range."""
    rounds, characters, numbers = [0], [0], [0]

    def spend(purse: list[int], cost: int, limit: int, what: str) -> None:
        purse[0] += cost
        if purse[0] > limit:
            raise _SandboxError(f"it took more than {limit:,} {what}; does it loop for ever?")

    def meter(*values: Any) -> Any:
        if not values:
            spend(rounds, 1, ROUNDS, "rounds of its loops")
            return ""
        texts = values if len(values) == 1 else [str(value) for value in values]
        spend(characters, sum(len(x) for x in texts if isinstance(x, str)), CHARACTERS, "characters")
        return values[0] if len(values) == 1 else "".join(texts)

    def bounded(*ends: int) -> range:
        spend(numbers, len(range(*ends)), ROUNDS, "numbers of range")
        return range(*ends)

    return meter, bounded


def _within(pieces: Any) -> list[str]:
    """The pieces of a text that is not too long."""
    found, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > CHARACTERS:
            raise _SandboxError(f"it wrote more than {CHARACTERS:,} characters")
        found.append(piece)
    return found


def _bounded(name: str, function: Callable) -> Callable:
    """A filter that refuses large arguments, and what else it was."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _refuse_large(name, *args, *kwargs.values())
        return function(*args, **kwargs)

    return call


def _refuse_large(operation: str, *values: Any) -> None:
    """Refuses values of which one may be repeated as often as another is long, and a format with a huge width."""
    sizes = sorted((1, 1, *(_size(value) for value in values)), reverse=True)
    wide = operation.startswith("format") and isinstance(values[0], str) and re.search(r"\d{6}|%[^a-z]*\*", values[0])
    if wide or sizes[0] * sizes[1] > LARGE:
        raise _SandboxError(TOO_LARGE)


def _size(value: Any) -> float:
    """Characters of a text, of all texts in a list, or a number's own size."""
    if isinstance(value, int | float):
        return abs(value)
    if isinstance(value, list | tuple):
        return sum(len(x) if isinstance(x, str) else 1 for x in value)
    return len(value) if isinstance(value, str) else 1


def _unused(name: str, source: str) -> str:
    """A name that the source does not have, so that it cannot put something else in its place."""
    while name in source:
        name += "_"
    return name


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """JSON as transformers' filter writes it: not escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _namespace(*values: Any, **named: Any) -> Namespace:
    """Variables that keep their values from round to round; as in transformers, none begins with an underscore."""
    _check_names(dict(*values, **named))
    return Namespace(*values, **named)


def _check_names(names: Iterable[Any]) -> None:
    """Refuses names that begin with an underscore."""
    for name in names:
        if isinstance(name, str) and name.startswith("_"):
            raise _SandboxError(f"a namespace cannot hold {name!r}: no name may begin with an underscore")


def _raise(message: str) -> NoReturn:
    """What templates call on messages that they do not take."""
    raise _SandboxError(message)


def _words(error: Exception) -> str:
    """An error in words, and what to do about a template that asks for the date."""
    text = str(error) or type(error).__name__
    if isinstance(error, jinja2.UndefinedError) and "strftime_now" in text:
        return (
            f"{text}: a text that changes every day cannot be trained on twice; give the date, "
            """--template_kwargs '{"strftime_now": "2025-01-31"}', or write it into the template"""
        )
    return text
