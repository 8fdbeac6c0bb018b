"""Check exercises of a learner's folder: what the text shows at once, and the rest in a worker with limits.

A worker has limits of time, memory and output, a folder of its own, and a process group that is killed when
the check ends. Whatever the learner's code does, the check gives a Result.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from stages.teach import messages, overlay
from stages.teach.course import Exercise
from stages.teach.files import ROOT
from stages.teach.record import digest_answer
from stages.teach.report import Result, fail, from_json
from stages.teach.server import COMPILER, WITHOUT_COMPILER
from stages.teach.suite import find_suite, list_libraries, list_tests
from stages.teach.text_check import judge_text


class Limits(NamedTuple):
    """Limits of a check.

    Fields:
        seconds: of work for the imports and the example; the tests have their time beside it.
        stage_seconds: of work for the import, for the example, and for each test.
        per_second: seconds for each second that the tests of the table took.
        megabytes: of memory that the check may allocate.
        kilobytes: of text that the learner's code may print.
        start_seconds: to import torch.
    """

    seconds: float = 20.0
    stage_seconds: float = 10.0
    per_second: float = 8.0
    megabytes: int = 3000
    kilobytes: int = 1000
    start_seconds: float = 180.0


LIMITS = Limits()

WAIT = 4.0
"""Longest wait for a second of work: on a busy machine, or of code that sleeps."""


class Server(NamedTuple):
    """A running `stages.teach.server`, and what it has said that is not read yet."""

    process: subprocess.Popen[bytes]
    limits: Limits
    unread: bytearray


LIBRARIES = ("pytest", "hypothesis")
"""Libraries of the extra `exercises` that the check runs tests with."""

SHOWN = 1000
"""Characters of the learner's own output in a result."""

TICK = 0.02
"""Seconds between two looks at a worker."""


LEFT_OUT = (
    overlay.VARIABLE,
    "PYTHONDEVMODE",
    "PYTHONINSPECT",
    "PYTHONOPTIMIZE",
    "PYTHONPROFILEIMPORTTIME",
    "PYTHONVERBOSE",
    "PYTHONWARNINGS",
)
"""Variables that the server does not get: without its `assert` a test passes, and a warning is no mistake."""


@contextmanager
def open_server(limits: Limits = LIMITS) -> Iterator[Server]:
    """Starts the process that forks workers, and ends it with the block. It imports torch meanwhile.

    It starts in the folder of the packages: a learner's folder has packages of the same names.

    Raises:
        ModuleNotFoundError: if a library of the extra `exercises` is not installed.
    """
    _check_installed()
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.teach.server"],
        stdin=pipe,
        stdout=pipe,
        env=choose_environment(os.environ),
        cwd=ROOT,  # in the learner's folder, a file such as random.py would be imported
        start_new_session=True,
    )
    try:
        yield Server(process, limits, bytearray())
    finally:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def choose_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Chooses the environment of the server: without what makes a result depend on the learner's shell.

    Example:
        >>> choose_environment({"PYTHONOPTIMIZE": "2", "LANG": "C"})["LANG"]
        'C'
    """
    kept = {name: value for name, value in environment.items() if name not in LEFT_OUT}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    changes = {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    return kept | changes | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def check(folder: Path, exercise: Exercise, server: Server, *, speed: bool = False) -> Result:
    """Checks one exercise of a learner's folder.

    Args:
        folder: the edition.
        exercise: of the course.
        server: that forks the worker.
        speed: True runs the example alone, and measures; the fields "learner" and "ours" of the result are
            then seconds of a call.

    Returns:
        The result; its fields name the learner's file relative to `folder`.
    """
    start, digest = time.monotonic(), digest_answer(folder, exercise)
    result = judge_text(folder, exercise)
    if result is None:
        result = _run_worker(folder, exercise, server, speed)
    is_same = digest_answer(folder, exercise) == digest
    return result._replace(seconds=round(time.monotonic() - start, 2), digest=digest if is_same else "")


def _check_installed() -> None:
    """Raises ModuleNotFoundError if a library that the check runs tests with is not installed."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"the check needs {' and '.join(LIBRARIES)}; not installed: {', '.join(missing)}; "
            "pip install 'intro2llm[exercises]'"
        )


def _run_worker(folder: Path, exercise: Exercise, server: Server, speed: bool) -> Result:
    """Has a worker check an exercise, and another if the answer had the compiler imported and failed."""
    more = (COMPILER,) if list_tests(exercise.name).compiler else ()
    result, status = _fork_worker(folder, exercise, server, more, speed)
    if status == WITHOUT_COMPILER and not more:
        result, _ = _fork_worker(folder, exercise, server, (COMPILER,), speed)
    return result


def needs_compiler(folder: Path, exercise: Exercise, server: Server) -> bool:
    """Tells whether a check fails without torch's compiler, and is run again.

    Args:
        folder, exercise: as in `check`.
        server: one that has not imported the compiler; with any other the answer is False.
    """
    return _fork_worker(folder, exercise, server, (), False)[1] == WITHOUT_COMPILER


def _fork_worker(
    folder: Path, exercise: Exercise, server: Server, more: Sequence[str], speed: bool
) -> tuple[Result, int | None]:
    """Has the server fork a worker, and waits for its result, its end, or a limit.

    Args:
        folder, exercise, server, speed: as in `check`.
        more: libraries that the server imports before, beside those of the tests.

    Returns:
        (the result, the worker's exit status); the status is None if a limit ended it.
    """
    tests, suite = list_tests(exercise.name), find_suite()
    libraries = list_libraries(suite, tests.ids) if suite and not speed else []
    with tempfile.TemporaryDirectory(prefix="exercise-", ignore_cleanup_errors=True) as scratch:
        Path(scratch, "work").mkdir()
        request = {
            "folder": str(folder.absolute()),
            "exercise": exercise,
            "tests": tests.ids,
            "suite": str(suite or ""),
            "libraries": [*libraries, *more],
            "scratch": scratch,
            "megabytes": server.limits.megabytes,
            "speed": speed,
        }
        if not _read(server, server.limits.start_seconds, "ready"):
            return fail(
                exercise.name, "error", messages.ERROR, error="the server of checks did not start"
            ), None
        _ask(server, request)
        seconds = server.limits.seconds + server.limits.per_second * tests.seconds
        result, status = _watch(server, Path(scratch), exercise, seconds)
        output = _read_output(Path(scratch) / "output")
        return result._replace(output=output), status


def _ask(server: Server, request: dict[str, Any]) -> None:
    """Sends a request to the server; what it says next tells if it has ended."""
    assert server.process.stdin is not None
    with suppress(BrokenPipeError):
        server.process.stdin.write((json.dumps(request) + "\n").encode("utf8"))
        server.process.stdin.flush()


def _read(server: Server, seconds: float, key: str) -> Any:
    """Waits for the server's next line, which holds this key; None if it does not come in time."""
    stream = server.process.stdout
    assert stream is not None
    deadline = time.monotonic() + seconds
    while b"\n" not in server.unread:
        readable, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        more = os.read(stream.fileno(), 65536) if readable else b""
        if not more:
            return None
        server.unread.extend(more)
    line, _, rest = bytes(server.unread).partition(b"\n")
    server.unread[:] = rest
    return json.loads(line).get(key)


def _watch(server: Server, scratch: Path, exercise: Exercise, seconds: float) -> tuple[Result, int | None]:
    """Waits for a worker, and ends it at a limit; gives its result, and its exit status or None."""
    limits, name = server.limits, exercise.name
    pid = _read(server, limits.start_seconds, "pid")
    if pid is None:
        return fail(name, "error", messages.ERROR, error="the server of checks ended"), None
    start = changed = (time.monotonic(), _work_seconds(pid))
    stage, failed, status = "", None, None
    while status is None and failed is None:
        status = _read(server, TICK, "status")
        if server.process.poll() is not None:
            return fail(name, "error", messages.ERROR, error="the server of checks ended"), None
        now = (time.monotonic(), _work_seconds(pid))
        if (current := _read_stage(scratch)) != stage:
            stage, changed = current, now
        if _exceeds(start, now, seconds) or _exceeds(changed, now, limits.stage_seconds):
            fields = {"seconds": round(now[0] - changed[0]), "stage": stage or messages.START}
            failed = fail(name, "slow", messages.SLOW, **fields)
        elif _size(scratch / "output") > limits.kilobytes * 1000:
            failed = fail(name, "purity", messages.PRINTS, limit=limits.kilobytes)
        elif _resident_megabytes(pid) > 2 * limits.megabytes:
            failed = fail(name, "memory", messages.MEMORY, limit=limits.megabytes)
    if status is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        _read(server, limits.start_seconds, "status")
    if failed is not None or status is None:
        return failed or _read_result(scratch, exercise, 0, limits), None
    return _read_result(scratch, exercise, status, limits), status


def _exceeds(start: tuple[float, float], now: tuple[float, float], limit: float) -> bool:
    """The work since `start` is more than the limit allows, or the wait for it is."""
    return now[1] - start[1] > limit or now[0] - start[0] > WAIT * limit


def _work_seconds(pid: int) -> float:
    """Processor seconds of a process and its ended children; the clock where the system does not tell it."""
    if not Path("/proc/self/stat").exists():
        return time.monotonic()
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _read_result(scratch: Path, exercise: Exercise, status: int, limits: Limits) -> Result:
    """The result that a worker wrote, or what its end says."""
    result = _read_written(scratch / "result")
    if result is not None:
        exercise_fields = dict(result.fields)
        if result.kind == "memory":
            exercise_fields["limit"] = limits.megabytes
        return result._replace(fields=exercise_fields)
    output = _read_output(scratch / "output")
    if "MemoryError" in output or "can't allocate memory" in output:
        return fail(exercise.name, "memory", messages.MEMORY, limit=limits.megabytes)
    if status >= 0:
        return fail(exercise.name, "exit", messages.EXIT_CODE, code=status)
    return fail(exercise.name, "exit", messages.EXIT, reason=signal.Signals(-status).name)


def _read_written(path: Path) -> Result | None:
    """The result in a worker's file; None if there is none, or something else was written there."""
    try:
        return from_json(path.read_text("utf8"))
    except (OSError, ValueError, TypeError):
        return None


def _read_stage(scratch: Path) -> str:
    """The part of the check that the worker runs now."""
    try:
        return (scratch / "stage").read_text("utf8", errors="replace").strip()
    except OSError:
        return ""


def _read_output(path: Path) -> str:
    """The beginning of what the learner's code printed."""
    try:
        with path.open(encoding="utf8", errors="replace") as file:
            text = file.read(SHOWN + 1)
    except OSError:
        return ""
    return (text if len(text) <= SHOWN else f"{text[:SHOWN]}...").rstrip()


def _size(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _resident_megabytes(pid: int) -> float:
    """Memory of a process, where the system tells it; else 0."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
