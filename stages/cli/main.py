"""The command line: `intro2llm SUBCOMMAND --flags`. One file a subcommand, imported only when it runs.

torch alone takes seconds to import, so this file imports nothing but the standard library, and `--help` answers at
once. A subcommand is a module of this package with `main(arguments: Sequence[str]) -> int`, the exit code, and a line
in SUBCOMMANDS.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

SUBCOMMANDS: Mapping[str, str] = {
    "demo": "train a small model on Python's own documentation and source, and show what it writes",
    "tokenizer": "train a byte-pair encoding on your text",
    "pretrain": "train a language model on your text",
    "generate": "continue a text with a trained model",
    "replay": "compute one step of a past run again and compare every bit",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the subcommand that the first argument names, and gives it the others.

    Args:
        arguments: what follows `intro2llm`; None takes them from the process.

    Returns:
        The exit code: 0 done, 2 a mistake in the arguments, otherwise the subcommand's own.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name not in SUBCOMMANDS:
        near = difflib.get_close_matches(name, SUBCOMMANDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SUBCOMMANDS)}"
        print(f"intro2llm: unknown subcommand {name!r}; {hint}", file=sys.stderr)
        return 2
    return import_module(f"stages.cli.{name}").main(rest)


def overview() -> str:
    """Lists the subcommands, a line each."""
    lines = [f"  {name:<12} {what}" for name, what in SUBCOMMANDS.items()]
    return "\n".join(
        ["usage: intro2llm SUBCOMMAND [--flags]", "", *lines, "", "intro2llm SUBCOMMAND --help lists the flags of one."]
    )
