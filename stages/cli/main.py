"""The command line, `intro2llm SUBCOMMAND --flags`, and its errors in one line.

A subcommand is a row in `subcommands.SUBCOMMANDS`. torch alone takes seconds to import, so a subcommand's
modules are imported when it runs, and `--help` answers at once.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir

from stages.cli.subcommands import CHECKPOINTS, SUBCOMMANDS, resolve

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk."""

USAGE_ERRORS = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
"""Errors of the arguments, or of the files and folders that they name."""

COMPILER_ERRORS = ("InductorError", "BackendCompilerFailed", "InvalidCxxCompiler", "CppCompileError")
"""Names of the errors of torch.compile and the C++ compiler."""

TRACEBACK = "INTRO2LLM_TRACEBACK"
"""Environment variable: 1 shows the traceback of every error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the subcommand that the first argument names with the flags that follow.

    An error that the user can fix is one line on stderr; any other is a bug, and shows its traceback.

    Args:
        arguments: the command-line arguments after `intro2llm`; None takes the process's.

    Returns:
        The exit code: 0 done; 2 a mistake in the arguments or in what they name; 1 an error of the machine
        (disk, memory, a missing package); 128 and the signal's number when interrupted; otherwise the
        subcommand's own.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name in ("-V", "--version", "version"):
        print(f"intro2llm {version('intro2llm')}")
        return 0
    if name not in SUBCOMMANDS:
        near = difflib.get_close_matches(name, SUBCOMMANDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(SUBCOMMANDS)}"
        print(f"intro2llm: unknown subcommand {name!r}; {hint}", file=sys.stderr)
        return 2
    subcommand, folder = SUBCOMMANDS[name], None
    try:
        from stages.cli.flags import parse  # tyro takes a moment to import

        options = parse(resolve(subcommand.options), name, rest)
        folder = Path(options.output_dir) if subcommand.keeps else None
        return resolve(subcommand.run)(options)
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(error, name, folder)
        if explained is None or os.environ.get(TRACEBACK) == "1":
            raise
        code, text = explained
        print(f"intro2llm {name}: {' '.join(text.split())}", file=sys.stderr)
        return code


def overview() -> str:
    """Lists the subcommands, one per line."""
    lines = [f"  {name:<12} {subcommand.help}" for name, subcommand in SUBCOMMANDS.items()]
    return "\n".join(
        [
            "usage: intro2llm SUBCOMMAND [--flags]",
            "",
            *lines,
            "",
            "intro2llm SUBCOMMAND --help lists the flags of one; intro2llm --version",
        ]
    )


def explain(error: BaseException, name: str = "", folder: Path | None = None) -> tuple[int, str] | None:
    """Describes an error that the user can fix.

    Args:
        error: the exception.
        name: the subcommand's name.
        folder: --output_dir of a subcommand that keeps something there; None if flags were not parsed.

    Returns:
        (exit code, text), or None for an error that only a programmer can fix.

    Example:
        >>> explain(ValueError("--seed: too large"))
        (2, '--seed: too large')
        >>> explain(IndexError("list index out of range")) is None
        True
    """
    if isinstance(error, KeyboardInterrupt):
        return 130, _describe_interruption(name, folder)
    if isinstance(error, BrokenPipeError):
        return _end_quietly()
    if isinstance(error, USAGE_ERRORS) or type(error) is LookupError:  # the last is an unknown encoding
        return 2, _describe(error)
    if isinstance(error, OSError | ImportError | FloatingPointError):
        return 1, _describe(error)
    kind = type(error).__name__
    if isinstance(error, MemoryError) or "OutOfMemory" in kind or "can't allocate" in str(error):
        if name == "evaluate":
            return 1, "out of memory; use a smaller --batch_tokens"
        return 1, "out of memory; split the batch by --gradient_accumulation, or use a smaller --batch_size"
    if kind in COMPILER_ERRORS:
        first = str(error).strip().partition("\n")[0]
        return 1, f"the step could not be compiled ({first[:200]}); run with --no_compile"
    return None


def _describe(error: BaseException) -> str:
    """Returns the message; for an error of the operating system, the file and the reason."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    own_message = error.errno is None or error.strerror != os.strerror(error.errno)
    if own_message or error.errno not in FULL:
        return error.strerror
    return f"{error.strerror}; check the disk of --output_dir, and that of {gettempdir()}"


def _describe_interruption(name: str, folder: Path | None) -> str:
    """Says what an interrupted subcommand keeps, and how to resume."""
    keeps = SUBCOMMANDS[name].keeps
    if not keeps or folder is None:
        return "interrupted"
    kept = next(folder.glob(keeps), None) is not None
    if keeps != CHECKPOINTS:
        return f"interrupted; the same command {'keeps the saved answers' if kept else 'starts again'}"
    if kept:
        return "interrupted; the same command resumes from the newest checkpoint"
    return f"interrupted before the first checkpoint in {folder}; the same command starts again"


def _end_quietly() -> tuple[int, str]:
    """Handles a closed pipe (`| head`): Python must not fail again when it closes the output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141, "the reader of the output is gone"


if __name__ == "__main__":
    sys.exit(main())
