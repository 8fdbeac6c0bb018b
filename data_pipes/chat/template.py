"""Jinja2 templates that strangers wrote, run in a sandbox: no access to Python, a bound on time and memory.

The environment is the one that chat templates are written for, transformers': trim_blocks, lstrip_blocks,
loop controls, `raise_exception`, `tojson`, {% generation %} blocks. It has no clock, so `strftime_now` is
undefined: templates that ask whether it is take the date that is written in them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.utils import Namespace

from data_pipes.chat.template_budget import Sandbox, make_meter, metered_filter, metered_test
from data_pipes.chat.template_costs import CALL, LOOKUP, NODE, SandboxError

SOURCE = 1 << 18
"""Characters of a template; the longest published ones have a tenth of it."""

OPEN, CLOSE, BEGIN, END, HERE = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
"""Code points that are no characters, for use between programs (Unicode 23.7). OPEN number CLOSE stands for a
text that the template shall not see; a {% generation %} block leaves BEGIN and END around what it holds; HERE
marks a place in a message."""


class Program(NamedTuple):
    """A template, compiled.

    Fields:
        run: what renders it.
        meter: with what the names begin under which it calls its meter (`data_pipes.chat.template_budget`).
        names: the variables that it reads and does not set itself.
        marked: it has {% generation %} blocks.
    """

    run: jinja2.Template
    meter: str
    names: frozenset[str]
    marked: bool


def compile_template(source: str) -> Program:
    """Compiles a template in which everything that takes time or memory is charged.

    Its syntax tree is changed: loops, macros and blocks, what is written or joined, comparisons, slices and
    lookups call the meter; filters, tests, calls and operators are charged by the environment.

    Args:
        source: jinja2.

    Returns:
        Program.

    Raises:
        ValueError: if it does not compile, with the line, or has more than 262,144 characters.

    Example:
        >>> compile_template("Hello{{ name")
        Traceback (most recent call last):
        ...
        ValueError: the chat template does not compile: line 1: unexpected end of template, expected 'end of
            print
        statement'.
    """
    if len(source) > SOURCE:
        raise ValueError(f"the chat template has {len(source):,} characters; expected at most {SOURCE:,}")
    meter = _unused_name("_meter", source)
    environment = _make_environment(meter)
    try:
        tree = environment.parse(source)
        _check_names(node.attr for node in tree.find_all(nodes.NSRef))
        names = frozenset(meta.find_undeclared_variables(tree))
        marked = any(data.data == BEGIN for data in tree.find_all(nodes.TemplateData))
        _insert_meter(tree, meter)
        tree.set_environment(environment)
        code = environment.compile(tree, "template", "template")
    except (jinja2.TemplateError, RecursionError, SyntaxError, UnicodeError, MemoryError) as error:
        line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
        what = "it is nested too deeply" if isinstance(error, RecursionError | MemoryError) else error
        raise ValueError(f"the chat template does not compile: {line}{what}") from None
    made = jinja2.Template.from_code(environment, code, environment.make_globals(None))
    return Program(made, meter, names, marked)


def run_template(program: Program, **variables: Any) -> str:
    """Runs a template.

    Args:
        program: from `compile_template`.
        variables: what it may name: `messages`, `add_generation_prompt`, ...; plain values only.

    Returns:
        The text, with BEGIN and END of {% generation %} blocks in it.

    Raises:
        ValueError: if it raises anything, calls itself without end, or takes too long or too much memory for
            what it is given.

    Example:
        >>> program = compile_template("{% for m in messages %}{{ m.content }}!{% endfor %}")
        >>> run_template(program, messages=[{"content": "Hi"}])
        'Hi!'
    """
    made = make_meter(variables)
    named = {f"{program.meter}_{name}": getattr(made, name) for name in made._fields}
    try:
        return "".join(
            _charge_pieces(program.run.generate(**{**variables, **named, "range": made.range}), made.spend)
        )
    except RecursionError:
        raise ValueError("the chat template failed: it calls itself without end") from None
    except Exception as error:  # whatever a stranger's program may raise
        raise ValueError(f"the chat template failed: {_describe_error(error)}") from None


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}: the assistant's part, between two marks."""

    tags = frozenset(["generation"])  # type: ignore[assignment]

    def parse(self, parser: Any) -> list[nodes.Node]:
        """Puts a mark before and after the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([nodes.TemplateData(mark)]).set_lineno(line) for mark in (BEGIN, END))
        return [begin, nodes.Scope(body).set_lineno(line), end]


def _make_environment(meter: str) -> Sandbox:
    """What templates expect to find, without a clock or filler text."""
    made = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.budget = f"{meter}_spend"
    made.filters["tojson"] = _to_json
    made.filters = {
        name: metered_filter(name, function, made.budget) for name, function in made.filters.items()
    }
    tests: dict[str, Any] = {**made.tests}
    made.tests = {name: metered_test(name, function, made.budget) for name, function in tests.items()}
    made.globals["raise_exception"] = _raise_exception
    made.globals["namespace"] = _namespace
    del made.globals["lipsum"]
    return made


def _insert_meter(tree: nodes.Template, meter: str) -> None:
    """Puts the meter into every loop, macro and block, and around what is written, joined, compared, cut or
    looked up.

    Comparisons with a constant are as quick as it is short, and are left as they are.
    """

    def call(what: str, arguments: list, line: int) -> Any:
        return nodes.Call(nodes.Name(f"{meter}_{what}", "load"), arguments, [], None, None).set_lineno(line)

    every: list[Any] = list(tree.find_all(nodes.Node))
    weights = {
        id(node): sum(map(_weight, node.find_all(nodes.Expr))) for node in every if isinstance(node, LOOPS)
    }
    for node in every:
        line = node.lineno
        if isinstance(node, nodes.Concat):
            node.nodes = [call("shown", node.nodes, line)]
        elif isinstance(node, nodes.Output):
            node.nodes = [
                x if isinstance(x, nodes.TemplateData) else call("shown", [x], x.lineno) for x in node.nodes
            ]
        elif isinstance(node, LOOPS):
            units = nodes.Const(CALL + weights[id(node)])
            node.body = [nodes.Output([call("round", [units], line)]).set_lineno(line), *node.body]
            if isinstance(node, nodes.For) and node.test is not None:
                node.test = nodes.Or(call("round", [units], line), node.test).set_lineno(line)
        elif isinstance(node, nodes.Compare) and not _is_cheap(node):
            if len(node.ops) == 1:
                name = nodes.Const(node.ops[0].op)
                node.expr, node.ops = call("compare", [name, node.expr, node.ops[0].expr], line), []
            else:
                node.expr = call("paid", [node.expr], line)
                for operand in node.ops:
                    operand.expr = call("paid", [operand.expr], line)
        elif isinstance(node, nodes.Getitem):
            if isinstance(node.arg, nodes.Slice):
                node.node = call("paid", [node.node], line)
            elif not isinstance(node.arg, nodes.Const | nodes.BinExpr):
                node.arg = call("paid", [node.arg], line)


LOOPS = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)
"""What can be run again and again."""


def _weight(node: nodes.Expr) -> int:
    """Units of an expression whose parts are counted by themselves."""
    return LOOKUP if isinstance(node, nodes.Getattr | nodes.Getitem | nodes.NSRef) else NODE


def _is_cheap(node: nodes.Compare) -> bool:
    """Whether a comparison has one operator, and is as quick as a constant in the template is short."""
    if len(node.ops) != 1:
        return False
    inside = node.ops[0].op in ("in", "notin")
    sides = (node.ops[0].expr,) if inside else (node.expr, node.ops[0].expr)
    return any(
        isinstance(side, nodes.Const)
        or (
            isinstance(side, nodes.List | nodes.Tuple)
            and not [x for x in side.items if not isinstance(x, nodes.Const)]
        )
        for side in sides
    )


def _charge_pieces(pieces: Iterable[str], spend: Callable[[int], None]) -> Iterator[str]:
    """The pieces of a text, each charged."""
    for piece in pieces:
        spend(len(piece))
        yield piece


def _unused_name(name: str, source: str) -> str:
    """A name that the source does not have, so that it cannot put something else in its place."""
    while name in source:
        name += "_"
    return name


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """JSON as transformers' filter writes it: not escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _namespace(*values: Any, **named: Any) -> Namespace:
    """Variables that keep their values from round to round; as in transformers, none begins with an
    underscore."""
    _check_names(dict(*values, **named))
    return Namespace(*values, **named)


def _check_names(names: Iterable[Any]) -> None:
    """Refuses names that begin with an underscore."""
    for name in names:
        if isinstance(name, str) and name.startswith("_"):
            raise SandboxError(f"a namespace cannot hold {name!r}: no name may begin with an underscore")


def _raise_exception(message: str) -> NoReturn:
    """What templates call on messages that they do not take."""
    raise SandboxError(message)


def _describe_error(error: Exception) -> str:
    """An error in words, and what to do about a template that asks for the date."""
    text = str(error) or type(error).__name__
    if isinstance(error, jinja2.UndefinedError) and "strftime_now" in text:
        return (
            f"{text}: a text that changes every day cannot be trained on twice; give the date, "
            """--template_kwargs '{"strftime_now": "2025-01-31"}', or write it into the template"""
        )
    return text
