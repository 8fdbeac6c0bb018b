"""Flags from dataclasses: each field is a flag, and the text below it is its help."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from stages.cli.mistakes import find_mistake
from stages.run.options.ranges import Flags, check_values

Options = TypeVar("Options", bound=Flags)


def parse(kind: type[Options], name: str, arguments: Sequence[str]) -> Options:
    """Parses the flags of a subcommand; `--batch_size` and `--batch-size` are the same.

    Args:
        kind: the dataclass of the flags.
        name: the subcommand's name.
        arguments: the command-line arguments after it.

    Raises:
        SystemExit: with 0 after --help.
        ValueError: for a flag that is unknown, missing, or has a wrong value, or a number outside the range
            that its field's annotation gives.
    """
    mistake = find_mistake(kind, arguments)
    if mistake:
        raise ValueError(f"{mistake}; intro2llm {name} --help lists the flags")
    parsed: Any = tyro.cli(
        _with_help(kind),
        prog=f"intro2llm {name}",
        description=inspect.getdoc(kind),
        args=list(arguments),
        use_underscores=True,
    )
    options = kind(**vars(parsed))
    check_values(options)
    return options


def help_texts(kind: type) -> dict[str, str]:
    """Reads the help of every flag, the text below its field, as one paragraph.

    Args:
        kind: the dataclass; a field without a text has that of its base class.
    """
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            (definition,) = ast.parse(inspect.getsource(base)).body
            for field, text in itertools.pairwise(definition.body):  # type: ignore[attr-defined]
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    texts[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return texts


@functools.cache
def _with_help(kind: type) -> type:
    """Returns a dataclass of the same fields, whose help tyro prints as one paragraph per flag.

    The flag of a field `with_` is `--with`, a keyword of Python. On its own, tyro also reads the text below a
    field, but keeps its line breaks. Cached, because reading
    the source takes longer than parsing the flags.
    """
    hints, texts = get_type_hints(kind, include_extras=True), help_texts(kind)
    fields = [
        (
            field.name,
            Annotated[hints[field.name], tyro.conf.arg(help=texts[field.name], name=field.name.rstrip("_"))],
            dataclasses.field(default=field.default),
        )
        for field in dataclasses.fields(kind)
    ]
    return dataclasses.make_dataclass(kind.__name__, fields, kw_only=True)
