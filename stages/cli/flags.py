"""Flags from dataclasses: each field is a flag, and the text below it is its help."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_type_hints

import tyro

from stages.cli.flag_file import read_flags
from stages.cli.mistakes import find_mistake, name_of, split_at_flags
from stages.run.options.base import TrainOptions
from stages.run.options.ranges import Flags, check_values

OPEN_SWITCH = bool | None
"""Type of a switch that decides nothing unless it is given: --NAME or --no_NAME."""

Options = TypeVar("Options", bound=Flags)


@dataclass(frozen=True, kw_only=True)
class CommandFlags:
    """Flags of every training stage that are no part of a run."""

    config_file: str | None = None
    """YAML or JSON file with flags, such as the config.json of a run; flags of the command line win. Paths in
    it are as on the command line: relative to the current folder."""
    dry_run: bool = False
    """Read the model and the data, print what would run and the number of steps, and end; nothing is written
    to --output_dir."""


class Command(NamedTuple, Generic[Options]):
    """A parsed command line.

    Fields:
        options: the flags.
        dry_run: whether the run is only described.
    """

    options: Options
    dry_run: bool


def parse(kind: type[Options], name: str, arguments: Sequence[str]) -> Options:
    """Parses the flags of a subcommand; `--batch_size` and `--batch-size` are the same.

    Args:
        kind: the dataclass of the flags.
        name: the subcommand's name.
        arguments: the command-line arguments after it.

    Returns:
        The options.

    Raises:
        SystemExit: with 0 after --help.
        ValueError: for a flag that is unknown, missing, or has a wrong value, or a number outside the range
            that its field's annotation gives; for a training stage also for such a flag in --config_file.
        FileNotFoundError: if there is no file --config_file.
    """
    return parse_command(kind, name, arguments).options


def parse_command(kind: type[Options], name: str, arguments: Sequence[str]) -> Command[Options]:
    """Parses the flags of a subcommand, and for a training stage those of CommandFlags.

    Args:
        kind, name, arguments: as `parse`.

    Returns:
        Command.

    Raises:
        SystemExit, ValueError, FileNotFoundError: as `parse`.
    """
    is_stage = issubclass(kind, TrainOptions)
    path = _find_file(arguments) if is_stage else None
    hint = f"intro2llm {name} --help lists the flags"
    try:
        in_file = read_flags(path, kind, name) if path else {}
    except ValueError as error:
        raise ValueError(f"{error}; {hint}") from None
    shown = _with_help(kind, is_stage, tuple(in_file.items()))
    if mistake := find_mistake(shown, arguments):
        raise ValueError(f"{mistake}; {hint}")
    parsed: Any = tyro.cli(
        shown,
        prog=f"intro2llm {name}",
        description=inspect.getdoc(kind),
        args=list(arguments),
        use_underscores=True,
    )
    values = dict(vars(parsed))
    own = (
        {field.name: values.pop(field.name) for field in dataclasses.fields(CommandFlags)} if is_stage else {}
    )
    typed = {name_of(flag) for flag, _ in split_at_flags(arguments)}
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if hints[field.name] == OPEN_SWITCH and not {field.name, f"no_{field.name}"} & typed:
            values[field.name] = in_file.get(field.name, field.default)
    options = kind(**values)
    _check(options, {key for key in in_file if not {key, f"no_{key}"} & typed}, path)
    return Command(options, bool(own.get("dry_run")))


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


def _find_file(arguments: Sequence[str]) -> str | None:
    """The file of --config_file; None without one. --help needs none."""
    files = [values for flag, values in split_at_flags(arguments) if name_of(flag) == "config_file"]
    asks_help = not {"-h", "--help"}.isdisjoint(arguments)
    return files[-1][0] if files and files[-1] and not asks_help else None


def _check(options: Flags, in_file: Collection[str], path: str | None) -> None:
    """Checks the values; of one that comes from a file, the message names the file too."""
    try:
        check_values(options)
    except ValueError as error:
        flag = name_of(str(error).partition(":")[0])
        raise ValueError(f"{path}: {error}" if flag in in_file else str(error)) from None


def parser_class(kind: type) -> type:
    """Returns the dataclass that tyro parses for a subcommand: its flags with their help, and CommandFlags.

    Args:
        kind: the dataclass of the subcommand's flags.
    """
    return _with_help(kind, issubclass(kind, TrainOptions))


@functools.cache
def _with_help(kind: type, is_stage: bool = False, in_file: tuple[tuple[str, Any], ...] = ()) -> type:
    """Returns a dataclass of the same fields, whose help tyro prints as one paragraph per flag.

    The flag of a field `with_` is `--with`, a keyword of Python. On its own, tyro also reads the text below a
    field, but keeps its line breaks. Cached, because reading
    the source takes longer than parsing the flags.

    Args:
        kind: the dataclass of the flags.
        is_stage: add CommandFlags.
        in_file: flags of --config_file, which are defaults here.
    """
    fields: list[tuple[str, Any, Any]] = []
    for group in (kind, CommandFlags) if is_stage else (kind,):
        hints, texts = get_type_hints(group, include_extras=True), help_texts(group)
        for field in dataclasses.fields(group):
            name, default = field.name, dict(in_file).get(field.name, field.default)
            hint, default_shown = hints[name], None
            if hint == OPEN_SWITCH:
                hint, default_shown = bool, f"(default: {default})"
                default = bool(default)  # `parse_command` puts None back
            shown = tyro.conf.arg(help=texts[name], name=name.rstrip("_"), help_behavior_hint=default_shown)
            fields.append((name, Annotated[hint, shown], dataclasses.field(default=default)))
    return dataclasses.make_dataclass(kind.__name__, fields, kw_only=True)
