"""The command line, `intro2llm SUBCOMMAND --flags`, and its errors in one line.

A subcommand is a row in `subcommands.SUBCOMMANDS`. torch alone takes seconds to import, so a subcommand's
modules are imported when it runs, and `--help` answers at once.
"""

from __future__ import annotations

import difflib
import errno
import os
import platform
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from stages.cli.spinning import limit_spinning
from stages.cli.subcommands import CHECKPOINTS, DRY_RUN, SUBCOMMANDS, resolve
from stages.run.world import World, read_world
from stages.teach import overlay

if TYPE_CHECKING:
    from stages.run.channel import End
    from stages.run.processes import Processes

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk."""

USAGE_ERRORS = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
"""Errors of the arguments, or of the files and folders that they name."""

COMPILER_ERRORS = ("InductorError", "BackendCompilerFailed", "InvalidCxxCompiler", "CppCompileError")
"""Names of the errors of torch.compile and the C++ compiler."""

HELP, VERSION = ("-h", "--help", "help"), ("-V", "--version", "version")
"""Words that are no subcommand, and are answered."""

SECONDS_TO_REFUSE = 10.0
"""Longest wait to tell the other processes that this one refuses its subcommand."""

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals that end the processes of a run."""

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
    limit_spinning(os.environ)
    try:
        world = read_world(os.environ)
    except ValueError as error:  # the others may have no such mistake, so that each tells its own
        rank = os.environ.get("RANK")
        print(f"intro2llm: {f'process {rank}: ' if rank else ''}{error}", file=sys.stderr)
        return 2
    if name in (*HELP, *VERSION):
        if world is None or world.rank == 0:
            print(overview() if name in HELP else describe_version())
        return 0
    refusal = _refuse_name(name, world) or _serve_learner(name, rest)
    if refusal and (world is None or world.rank == 0):
        print(refusal, file=sys.stderr, flush=True)
    if world is not None:
        return _refuse_joined(world, name, refusal) if refusal else _run_joined(world, name, rest)
    return 2 if refusal else _run_alone(name, rest)


def _refuse_name(name: str, world: World | None) -> str:
    """The line for a name that is no subcommand, or one that cannot run here; "" for any other."""
    if name not in SUBCOMMANDS:
        near = difflib.get_close_matches(name, SUBCOMMANDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(SUBCOMMANDS)}"
        return f"intro2llm: unknown subcommand {name!r}; {hint}"
    if world is not None and not SUBCOMMANDS[name].joins:
        return (
            f"intro2llm {name}: it runs in one process, and WORLD_SIZE is {world.size}; start it without "
            "torchrun"
        )
    return ""


def _serve_learner(name: str, arguments: Sequence[str]) -> str:
    """Serves the functions of the folder of `demo --with`, or of the process that started this one.

    It comes before the subcommand's modules are imported, and those of the functions with them.

    Returns:
        The line for a folder that cannot be used; "" if all is well.
    """
    if name == "demo":
        for index, word in enumerate(arguments):
            flag, equals, value = word.partition("=")
            if flag == "--with" and (equals or index + 1 < len(arguments)):
                os.environ[overlay.VARIABLE] = os.path.abspath(value if equals else arguments[index + 1])
    folder = os.environ.get(overlay.VARIABLE)
    if not folder or name == "exercises":
        return ""
    from stages.teach.record import read_record
    from stages.teach.translate import find_language, say, say_error

    try:
        lang = read_record(Path(folder)).lang
        left_out = overlay.install(folder).left_out
        lines = [say(each.text, lang, **each.fields) for each in left_out]
    except (OSError, ValueError, ImportError) as error:
        return f"intro2llm {name}: --with: {say_error(error, find_language(os.environ))}"
    for line in lines if os.environ.get("RANK") in (None, "", "0") else ():
        print(f"intro2llm {name}: --with {folder}: {line}", file=sys.stderr)
    return ""


def _run_alone(name: str, arguments: Sequence[str]) -> int:
    """Runs a subcommand in one process, and returns its exit code."""
    folder: list[Path] = []
    try:
        options, run = _parse(name, arguments, folder)
        own_words = SUBCOMMANDS[name].own_words
        passed_on = [] if own_words is None else [arguments[own_words:]]
        return run(options, *passed_on)
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(error, name, *folder)
        if explained is None or os.environ.get(TRACEBACK) == "1":
            raise
        code, text = explained
        _print_error(name, text)
        return code


def _run_joined(world: World, name: str, arguments: Sequence[str]) -> int:
    """Runs a subcommand together with other processes, and returns the exit code, which is that of all."""
    from stages.run.channel import End, EndedError

    _raise_at_signals()
    try:
        from stages.run import processes as joining

        joining.end_with_launcher()
        with _silent(world.rank > 0), joining.joined(world) as processes:
            try:
                end = _attempt(processes, name, arguments)
                signal.signal(signal.SIGURG, signal.SIG_IGN)  # the end of another process interrupts no more
            except EndedError as ended:  # it came while an error of this process was handled
                end = _explain_interrupted(processes, name, ended.__context__)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            end = joining.conclude(processes, end)
    except (OSError, SystemExit, KeyboardInterrupt) as error:  # before they were joined
        if isinstance(error, SystemExit):
            code, text = error.args[0], f"{error.args[1]}: {_describe_interruption(name)}"
        else:
            code, text = explain(error, name) or (1, str(error))
        end = End(code, text, True)
    if end.text:
        _print_error(name, end.text)
    return end.code


def _refuse_joined(world: World, name: str, refusal: str) -> int:
    """Tells the other processes, which may run another subcommand, that this one refuses its own; returns 2.

    Process 0 has printed the line. Another one prints it only if process 0 does not come.
    """
    from stages.run.channel import End, EndedError

    _raise_at_signals()
    try:
        from stages.run import processes as joining

        with joining.joined(world, SECONDS_TO_REFUSE) as processes:
            text = ""
            try:
                _compare_names(processes, name)
            except ValueError as error:
                text = str(error)
            joining.conclude(processes, End(2, text, True))
    except OSError:
        if world.rank:
            print(refusal, file=sys.stderr)
    except (SystemExit, KeyboardInterrupt, EndedError):
        pass  # a signal, as of torchrun when another process ended, or its end
    return 2


def _compare_names(processes: Processes, name: str) -> None:
    """Raises ValueError on all processes if they run different subcommands."""
    from stages.run import processes as joining

    names = joining.gather_values(processes, name, about="subcommand")
    for rank, other in enumerate(names):
        if other != names[0]:
            raise ValueError(f"process {rank} runs {other}, process 0 {names[0]}; start all with one command")


def _attempt(processes: Processes, name: str, arguments: Sequence[str]) -> End:
    """Runs a subcommand; an error that another process caused becomes that process's end."""
    from stages.run import processes as joining
    from stages.run.channel import SECONDS_FOR_CAUSE, End

    folder: list[Path] = []
    options: object = None
    try:
        asks_help = not {"-h", "--help"}.isdisjoint(arguments[: SUBCOMMANDS[name].own_words])
        _compare_names(processes, f"{name} --help" if asks_help else name)
        options, run = _parse(name, arguments, folder)
        return End(run(options, processes), "", False)
    except SystemExit as stop:
        if len(stop.args) == 2:  # a signal, perhaps of torchrun, as another process was killed
            code, signal_name = stop.args
            text = f"{signal_name}: {_describe_interruption(name, *folder)}"
            return joining.find_cause(processes) or End(code, text, True)
        if options is None:  # --help
            return End(0, "", False)
        code, text = _describe_exit(stop)
        return joining.find_cause(processes, 0.0) or End(code, text, True)
    except BaseException as error:
        explained = explain(error, name, *folder)
        if cause := joining.find_cause(processes, 0.0 if explained else SECONDS_FOR_CAUSE):
            return cause
        if explained is None or os.environ.get(TRACEBACK) == "1":
            traceback.print_exception(error)
        bug = (1, f"process {processes.rank}: {type(error).__name__}: {error}"[:300])
        return End(*(explained or bug), True)


def _explain_interrupted(processes: Processes, name: str, error: BaseException | None) -> End:
    """The end of a process whose own error was being explained as it learned of another one's end."""
    from stages.run import processes as joining
    from stages.run.channel import End

    explained = None if error is None else explain(error, name)
    if explained is None and (cause := joining.find_cause(processes)):
        return cause
    bug = "another process has ended" if error is None else f"{type(error).__name__}: {error}"
    return End(*(explained or (1, f"process {processes.rank}: {bug}"[:300])), True)


def _describe_exit(stop: SystemExit) -> tuple[int, str]:
    """Exit code and message of a SystemExit that the run's code raised, such as a reward's."""
    code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    said = f": {stop.code}" if isinstance(stop.code, str) else ""
    return code, f"SystemExit ended the run with exit code {code}{said}"


def _parse(name: str, arguments: Sequence[str], folder: list[Path]) -> tuple[object, Callable[..., int]]:
    """Parses the flags, and returns them with the function that takes them.

    The folder that the subcommand keeps files in is appended to `folder`.
    """
    from stages.cli.flags import parse_command  # tyro takes a moment to import

    subcommand = SUBCOMMANDS[name]
    options, dry_run = parse_command(resolve(subcommand.options), name, arguments[: subcommand.own_words])
    if subcommand.keeps and not dry_run:
        folder.append(Path(options.output_dir))
    return options, resolve(DRY_RUN if dry_run else subcommand.run)


@contextmanager
def _silent(silent: bool) -> Iterator[None]:
    """Prints nothing while the block runs, and no warning: process 0 says what all would say."""
    if not silent:
        yield
        return
    with open(os.devnull, "w") as null, redirect_stdout(null), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _raise_at_signals() -> None:
    """Lets the first signal to end raise an error, outside the loop, which saves first; ignores the next.

    torchrun passes signals on that its processes have received already, and sends SIGTERM to those that are
    the last to exit.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number, signal.Signals(number).name)

    for number in SIGNALS:
        signal.signal(number, stop)


def _print_error(name: str, text: str) -> None:
    """Prints an error in one line."""
    print(f"intro2llm {name}: {' '.join(text.split())}", file=sys.stderr)


def describe_version() -> str:
    """Returns the versions of the package, of torch and of Python in one line, without importing torch."""
    return f"intro2llm {version('intro2llm')}, torch {version('torch')}, Python {platform.python_version()}"


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


def _describe_interruption(name: str, folder: Path | None = None) -> str:
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
