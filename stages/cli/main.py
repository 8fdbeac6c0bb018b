"""The command line: `intro2llm SUBCOMMAND --flags`. One file a subcommand, imported only when it runs.

torch alone takes seconds to import, so this file imports nothing but the standard library, and `--help`
answers at once. A subcommand is a module of this package with `main(arguments: Sequence[str]) -> int`, the
exit code, and a line in SUBCOMMANDS.
"""

from __future__ import annotations

import difflib
import errno
import itertools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir

SUBCOMMANDS: Mapping[str, str] = {
    "demo": "train a small model on Python's own documentation and source, and show what it writes",
    "tokenizer": "train a byte-pair encoding on your text",
    "pretrain": "train a language model on your text",
    "sft": "fine-tune a model on conversations",
    "reward": "train a reward model on preference pairs",
    "dpo": "train a model on preference pairs directly",
    "grpo": "let a model learn from groups of its own answers and a reward",
    "ppo": "let a model learn from its own answers, a reward and a value function",
    "chat": "talk with a fine-tuned model",
    "preview": "show one batch in colour: what is learned, what is masked",
    "generate": "continue a text with a trained model",
    "evaluate": "measure a model: perplexity, multiple choice, programs, answers",
    "compare": "say what changed from one evaluation to another",
    "import": "bring a published model in: GGUF, a hub's name, a folder",
    "export": "write a model in Hugging Face's layout, in another type of weights",
    "merge": "work adapters into their base",
    "estimate": "say what a training step will take, before anything is allocated",
    "replay": "compute one step of a past run again and compare every bit",
}

WITHOUT = (
    "tokenizer",
    "generate",
    "chat",
    "preview",
    "replay",
    "import",
    "export",
    "merge",
    "estimate",
    "compare",
)
"""Subcommands that keep no checkpoints."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk that takes no more."""

TRACEBACK = "INTRO2LLM_TRACEBACK"
"""Environment variable: set to 1, an error shows where it was raised."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the subcommand that the first argument names, and gives it the others.

    An error that a person can fix is one line on stderr; anything else is a bug, and shows its traceback.

    Args:
        arguments: what follows `intro2llm`; None takes them from the process.

    Returns:
        The exit code: 0 done; 2 a mistake in the arguments or in what they name; 1 the machine refused (disk,
            memory,
        a missing package); 128 and the signal's number when interrupted; otherwise the subcommand's own.
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
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SUBCOMMANDS)}"
        print(f"intro2llm: unknown subcommand {name!r}; {hint}", file=sys.stderr)
        return 2
    try:
        return import_module(f"stages.cli.{name}").main(rest)
    except (Exception, KeyboardInterrupt) as error:
        found = explain(error, name, rest)
        if found is None or os.environ.get(TRACEBACK) == "1":
            raise
        code, text = found
        print(f"intro2llm {name}: {' '.join(text.split())}", file=sys.stderr)
        return code


def overview() -> str:
    """Lists the subcommands, a line each."""
    lines = [f"  {name:<12} {what}" for name, what in SUBCOMMANDS.items()]
    return "\n".join(
        [
            "usage: intro2llm SUBCOMMAND [--flags]",
            "",
            *lines,
            "",
            "intro2llm SUBCOMMAND --help lists the flags of one; intro2llm --version",
        ]
    )


def explain(error: BaseException, name: str = "", arguments: Sequence[str] = ()) -> tuple[int, str] | None:
    """Puts an error that a person can fix into words.

    Args:
        error: what was raised.
        name: of the subcommand.
        arguments: that it was given.

    Returns:
        (exit code, text), or None for an error that only a programmer can fix.

    Example:
        >>> explain(ValueError("--seed: too large"))
        (2, '--seed: too large')
        >>> explain(IndexError("list index out of range")) is None
        True
    """
    if isinstance(error, KeyboardInterrupt):
        return 130, _interrupted(name, arguments)
    if isinstance(error, BrokenPipeError):
        return _quiet_end()
    path = isinstance(error, FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError)
    if path or isinstance(error, ValueError) or type(error) is LookupError:  # the last is an unknown encoding
        return 2, _words(error)
    if isinstance(error, OSError | ImportError | FloatingPointError):
        return 1, _words(error)
    if (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or "can't allocate" in str(error)
    ):
        smaller = "a smaller --batch_tokens" if name == "evaluate" else "a smaller --batch_size"
        cut = "" if name == "evaluate" else "cut the batch by --gradient_accumulation, or "
        return 1, f"out of memory; {cut}take {smaller}"
    if type(error).__name__ in (
        "InductorError",
        "BackendCompilerFailed",
        "InvalidCxxCompiler",
        "CppCompileError",
    ):
        first = str(error).strip().splitlines()[:1]
        return 1, f"the step could not be compiled ({''.join(first)[:200]}); run with --no-compile"
    return None


def _words(error: BaseException) -> str:
    """The message; of the system's errors without the number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if error.errno is not None and error.strerror == os.strerror(error.errno):  # nobody named the file
        places = f"the disk of --output_dir, and that of {gettempdir()}"
        return f"{error.strerror}; look at {places}" if error.errno in FULL else error.strerror
    return error.strerror


def _interrupted(name: str, arguments: Sequence[str]) -> str:
    """What an interrupted command left, and how to go on."""
    if name in WITHOUT:
        return "interrupted"
    flags = dict(itertools.pairwise(arguments))
    typed = next((word.partition("=")[2] for word in arguments if re.match("--output[-_]dir=", word)), None)
    folder = Path(typed or flags.get("--output_dir") or flags.get("--output-dir") or f"runs/{name}")
    if name == "evaluate":
        left = (folder / "samples.jsonl").exists()
        return (
            f"interrupted; the same command {'keeps the answers that are there' if left else 'begins again'}"
        )
    if next(folder.glob("**/checkpoints/step-*"), None):
        return "interrupted; the same command resumes from the newest checkpoint"
    return f"interrupted before the first checkpoint in {folder}; the same command begins again"


def _quiet_end() -> tuple[int, str]:
    """Who read our output has gone (`| head`): Python must not say so once more when it closes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141, "nobody reads the output any more"


if __name__ == "__main__":
    sys.exit(main())
