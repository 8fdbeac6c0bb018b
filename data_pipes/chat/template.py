"""Compile and run chat templates in a sandbox: no access to Python, a bound on time and memory.

Templates come from third parties. The Jinja environment is the one that they are written for, transformers':
trim_blocks, lstrip_blocks, loop controls, `raise_exception`, `tojson`, {% generation %} blocks. It has no
clock, so `strftime_now` is undefined; templates that test for it fall back to a fixed date.
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

MAX_SOURCE = 1 << 18
"""Largest number of characters of a template, ten times that of the longest published ones."""

OPEN, CLOSE, BEGIN, END, HERE = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
"""Marks: code points that are not characters (Unicode 23.7). OPEN number CLOSE is the placeholder of a hidden
text; BEGIN and END enclose the output of a {% generation %} block; HERE marks a place in a message."""


class Program(NamedTuple):
    """A compiled template.

    Fields:
        template: Jinja's template.
        meter: prefix of the names of its meter's functions (`data_pipes.chat.template_budget`).
        names: variables that the template reads and does not set.
        fields: names of the fields that the template reads, of any of its values: `message.name`,
            `message["name"]`, `message.get("name")` and `"name" in message`.
        marked: True if the template has {% generation %} blocks.
    """

    template: jinja2.Template
    meter: str
    names: frozenset[str]
    fields: frozenset[str]
    marked: bool


def compile_template(source: str) -> Program:
    """Compiles a template, and inserts a meter that bounds its time and memory.

    The syntax tree is rewritten: loops, macros, blocks, output, concatenation, comparisons, slices and
    lookups call the meter. The environment charges filters, tests, calls and operators.

    Args:
        source: the template, in Jinja.

    Returns:
        Program.

    Raises:
        ValueError: if the template does not compile, with the line, or has more than 262,144 characters.

    Example:
        >>> compile_template("Hello{{ name")
        Traceback (most recent call last):
        ...
        ValueError: the chat template does not compile: line 1: unexpected end of template, expected
            'end of print statement'.
    """
    if len(source) > MAX_SOURCE:
        raise ValueError(f"the chat template has {len(source):,} characters; expected at most {MAX_SOURCE:,}")
    meter = _unused_name("_meter", source)
    environment = _make_environment(meter)
    try:
        tree = environment.parse(source)
        _check_names(node.attr for node in tree.find_all(nodes.NSRef))
        names = frozenset(meta.find_undeclared_variables(tree))
        fields = frozenset(_read_fields(tree))
        marked = any(data.data == BEGIN for data in tree.find_all(nodes.TemplateData))
        _insert_meter(tree, meter)
        tree.set_environment(environment)
        code = environment.compile(tree, "template", "template")
    except (jinja2.TemplateError, RecursionError, SyntaxError, UnicodeError, MemoryError) as error:
        line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
        reason = "it is nested too deeply" if isinstance(error, RecursionError | MemoryError) else error
        raise ValueError(f"the chat template does not compile: {line}{reason}") from None
    template = jinja2.Template.from_code(environment, code, environment.make_globals(None))
    return Program(template, meter, names, fields, marked)


def run_template(program: Program, **variables: Any) -> str:
    """Runs a template.

    Args:
        program: from `compile_template`.
        variables: the template's variables: `messages`, `add_generation_prompt`, ...; plain values only.

    Returns:
        The text, with BEGIN and END around {% generation %} blocks.

    Raises:
        ValueError: if the template raises anything, recurses without end, or needs too much time or memory
            for the size of its variables.

    Example:
        >>> program = compile_template("{% for m in messages %}{{ m.content }}!{% endfor %}")
        >>> run_template(program, messages=[{"content": "Hi"}])
        'Hi!'
    """
    meter = make_meter(variables)
    named = {f"{program.meter}_{name}": function for name, function in meter._asdict().items()}
    try:
        pieces = program.template.generate(**{**variables, **named, "range": meter.range})
        return "".join(_charge_pieces(pieces, meter.spend))
    except RecursionError:
        raise ValueError("the chat template failed: it calls itself without end") from None
    except Exception as error:  # a template may raise anything
        raise ValueError(f"the chat template failed: {_describe_error(error)}") from None


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}: the assistant's text, between two marks."""

    tags = frozenset(["generation"])  # type: ignore[assignment]

    def parse(self, parser: Any) -> list[nodes.Node]:
        """Puts a mark before and after the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([nodes.TemplateData(mark)]).set_lineno(line) for mark in (BEGIN, END))
        return [begin, nodes.Scope(body).set_lineno(line), end]


def _make_environment(meter: str) -> Sandbox:
    """The environment of transformers' templates, metered, without a clock and without `lipsum`."""
    sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    sandbox.budget = f"{meter}_spend"
    sandbox.filters["tojson"] = _to_json
    for name, function in sandbox.filters.items():
        sandbox.filters[name] = metered_filter(name, function, sandbox.budget)
    tests: dict[str, Any] = {**sandbox.tests}
    for name, test in tests.items():
        sandbox.tests[name] = metered_test(name, test, sandbox.budget)
    sandbox.globals["raise_exception"] = _raise_exception
    sandbox.globals["namespace"] = _namespace
    del sandbox.globals["lipsum"]
    return sandbox


def _insert_meter(tree: nodes.Template, meter: str) -> None:
    """Rewrites the tree in place, so that loops, output, comparisons, slices and lookups call the meter.

    A comparison with a constant costs no more than the constant's length, so it is not metered.
    """

    def call(function: str, arguments: list, line: int) -> Any:
        name = nodes.Name(f"{meter}_{function}", "load")
        return nodes.Call(name, arguments, [], None, None).set_lineno(line)

    all_nodes: list[Any] = list(tree.find_all(nodes.Node))
    weights = {  # computed before the rewriting adds nodes
        id(node): sum(map(_weight, node.find_all(nodes.Expr)))
        for node in all_nodes
        if isinstance(node, LOOPS)
    }
    for node in all_nodes:
        line = node.lineno
        if isinstance(node, nodes.Concat):
            node.nodes = [call("output", node.nodes, line)]
        elif isinstance(node, nodes.Output):
            node.nodes = [
                x if isinstance(x, nodes.TemplateData) else call("output", [x], x.lineno) for x in node.nodes
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
                node.expr = call("value", [node.expr], line)
                for operand in node.ops:
                    operand.expr = call("value", [operand.expr], line)
        elif isinstance(node, nodes.Getitem):
            if isinstance(node.arg, nodes.Slice):
                node.node = call("value", [node.node], line)
            elif not isinstance(node.arg, nodes.Const | nodes.BinExpr):
                node.arg = call("value", [node.arg], line)


LOOPS = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)
"""Nodes whose body may run many times."""


def _weight(node: nodes.Expr) -> int:
    """Units of one expression, without those of its operands."""
    return LOOKUP if isinstance(node, nodes.Getattr | nodes.Getitem | nodes.NSRef) else NODE


def _is_cheap(node: nodes.Compare) -> bool:
    """True for a single comparison with a constant of the template (for "in", a constant container)."""
    if len(node.ops) != 1:
        return False
    right = node.ops[0].expr
    if node.ops[0].op in ("in", "notin"):
        return _is_constant(right)
    return _is_constant(node.expr) or _is_constant(right)


def _is_constant(node: nodes.Expr) -> bool:
    """True for a constant, or a list or tuple of constants."""
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, nodes.Const)


def _charge_pieces(pieces: Iterable[str], spend: Callable[[int], None]) -> Iterator[str]:
    """Yields the pieces of a text, and charges their lengths."""
    for piece in pieces:
        spend(len(piece))
        yield piece


def _unused_name(name: str, source: str) -> str:
    """A name that the source does not contain, so that the template cannot rebind it."""
    while name in source:
        name += "_"
    return name


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """The filter `tojson` of transformers: JSON that is not escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _read_fields(tree: nodes.Template) -> Iterator[str]:
    """Yields the names of the fields that a template reads."""
    for node in tree.find_all((nodes.Getattr, nodes.Getitem, nodes.Compare, nodes.Call)):
        match node:
            case nodes.Getattr(attr=name):
                yield name
            case nodes.Getitem(arg=nodes.Const(value=str(name))):
                yield name
            case nodes.Compare(expr=nodes.Const(value=str(name)), ops=[nodes.Operand(op="in" | "notin"), *_]):
                yield name
            case nodes.Call(node=nodes.Getattr(attr="get"), args=[nodes.Const(value=str(name)), *_]):
                yield name


def _namespace(*values: Any, **named: Any) -> Namespace:
    """A namespace, in which no name begins with an underscore, as in transformers."""
    _check_names(dict(*values, **named))
    return Namespace(*values, **named)


def _check_names(names: Iterable[Any]) -> None:
    """Refuses names that begin with an underscore."""
    for name in names:
        if isinstance(name, str) and name.startswith("_"):
            raise SandboxError(f"a namespace cannot hold {name!r}: no name may begin with an underscore")


def _raise_exception(message: str) -> NoReturn:
    """The function `raise_exception`, by which templates refuse messages."""
    raise SandboxError(message)


def _describe_error(error: Exception) -> str:
    """Text of an error, with advice for a template that needs the date."""
    text = str(error) or type(error).__name__
    if isinstance(error, jinja2.UndefinedError) and "strftime_now" in text:
        return (
            f"{text}: the text would change every day, so training is not reproducible; give the date, "
            """--template_kwargs '{"strftime_now": "2025-01-31"}', or write it into the template"""
        )
    return text
