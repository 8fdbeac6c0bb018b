"""`intro2llm completion`: a script that completes subcommands, flags and choices in a shell."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from stages.run.options.ranges import ShownAs


@dataclass(frozen=True, kw_only=True)
class CompletionOptions:
    """Print a script that completes subcommands, flags and choices in a shell.

    For bash: eval "$(intro2llm completion bash)" in ~/.bashrc. For zsh: the same with zsh, after compinit.
    """

    shell: Annotated[
        Literal["bash", "zsh"], ShownAs("SHELL"), tyro.conf.Positional, tyro.conf.arg(metavar="SHELL")
    ]
    """bash or zsh."""


def run(options: CompletionOptions) -> int:
    """Prints the script.

    Returns:
        The exit code.
    """
    print(write_script(options.shell))
    return 0


def write_script(shell: str) -> str:
    """Writes the script of a shell for all subcommands; other words are completed as names of files.

    Args:
        shell: "bash" or "zsh".
    """
    from stages.cli.flags import parser_class
    from stages.cli.subcommands import SUBCOMMANDS, resolve

    kinds: dict[str, Callable[..., Any]] = {
        name: parser_class(resolve(row.options)) for name, row in SUBCOMMANDS.items()
    }
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(
            kinds, prog="intro2llm", args=["--tyro-print-completion", shell], use_underscores=True
        )
    script = printed.getvalue().strip()
    if registered := re.search(r"^complete -F (\S+) intro2llm$", script, re.MULTILINE):
        return f"{script}\ncomplete -o default -F {registered[1]} intro2llm"  # names of files too
    body, _, call = script.rpartition("\n")
    if shell == "zsh" and (called := re.fullmatch(r'(\S+) "\$@"', call)):
        # The script is made for a file in $fpath; with eval it is registered instead.
        name = called[1]
        call = f'if [ "$funcstack[1]" = _intro2llm ]; then {call}; else compdef {name} intro2llm; fi'
    return f"{body}\n{call}"
