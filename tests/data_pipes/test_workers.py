"""`data_pipes.workers` and `worker_process`: results and errors of one process, and none outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipes import workers as module
from data_pipes.workers import group, map_in_order, usable_cores
from tests.data_pipes.worker_functions import (
    end_at_three,
    has_torch,
    invert,
    leave,
    raise_loudly,
    return_function,
    square_slowly,
)

SCRIPT = """
import itertools
import signal
from data_pipes.workers import map_in_order
from tests.data_pipes.worker_functions import square_slowly
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
for number, (_, pid) in map_in_order(square_slowly, itertools.count(), 2):
    print(pid, flush=True)
"""
"""A script without `if __name__ == "__main__"` that prints its workers' process ids forever."""


def wait_for_end(pid: int, seconds: float = 20.0) -> None:
    """Fails unless the process ends in time; a zombie has ended."""
    end = time.monotonic() + seconds
    stat = Path(f"/proc/{pid}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end, f"process {pid} is alive"
        time.sleep(0.01)


def count_reads(reads: list[int], stop: int = 10**6) -> Iterator[int]:
    """Numbers from 1, each noted when it is read."""
    for number in range(1, stop):
        reads.append(number)
        yield number


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order_from_as_many_processes(workers: int) -> None:
    found = list(map_in_order(square_slowly, range(40), workers))
    assert [(item, result) for item, (result, _) in found] == [(n, n * n) for n in range(40)]
    processes = {process for _, (_, process) in found}
    assert processes == {os.getpid()} if workers == 1 else os.getpid() not in processes
    assert len(processes) == workers


def test_items_are_read_a_bounded_number_ahead_and_closing_ends_the_workers() -> None:
    reads: list[int] = []
    stream = map_in_order(square_slowly, count_reads(reads), 2)
    processes = {next(stream)[1][1] for _ in range(20)}
    assert 20 < len(reads) <= 20 + 2 * 2 + 2
    stream.close()  # type: ignore[attr-defined]
    for process in processes:
        wait_for_end(process, 0.5)
    reads.clear()
    next(map_in_order(square_slowly, count_reads(reads), 1))
    assert reads == [1]


@pytest.mark.parametrize("workers", [1, 2, None])
def test_an_error_comes_after_the_results_before_it(
    workers: int | None, capfd: pytest.CaptureFixture[str]
) -> None:
    found: list[tuple[int, object]] = []
    with pytest.raises(ZeroDivisionError, match=r"^(float )?division by zero$"):
        found.extend(map_in_order(invert, [1, 2, 0, 4, 0, 6], workers))
    assert found == [(1, 1.0), (2, 0.5)]
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err
    assert "inverting 2" in captured.out + captured.err  # what a function prints does not break the pipe


@pytest.mark.parametrize("workers", [1, 2, None])
def test_an_error_of_the_source_comes_after_the_results_before_it(workers: int | None) -> None:
    def source() -> Iterator[int]:
        yield from (1, 2, 3)
        raise ValueError("row 4 is broken")

    found: list[tuple[int, object]] = []
    with pytest.raises(ValueError, match=r"^row 4 is broken$"):
        found.extend(map_in_order(invert, source(), workers))
    assert found == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_killed_worker_is_one_clear_error() -> None:
    found: list[tuple[int, object]] = []
    with pytest.raises(
        ChildProcessError,
        match=r"^worker process \d+ was ended by signal 9 \(Killed\), as the system does when memory runs",
    ):
        found.extend(map_in_order(end_at_three, range(100), 2))
    assert found == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(ChildProcessError, match=r"^worker process \d+ ended with code 7; use 1 worker"):
        list(map_in_order(leave, range(9), 2))


def test_errors_and_results_that_cannot_be_sent_are_reported_as_text() -> None:
    with pytest.raises(RuntimeError, match=r"^LoudError: 1: too loud$"):
        list(map_in_order(raise_loudly, [1], 2))
    with pytest.raises((AttributeError, RuntimeError), match="pickle"):
        list(map_in_order(return_function, [1], 2))
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        list(map_in_order(square_slowly, [lambda: 1], 2))  # type: ignore[list-item]


def test_a_function_without_a_name_in_a_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a function that can be pickled.*or pass workers=1"):
        next(map_in_order(lambda x: x, [1], 2))
    script = "from data_pipes.workers import *\ndef f(x): return x\nlist(map_in_order(f, [1], 2))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.stderr.count("Traceback") == 1
    assert "TypeError: a worker process cannot load the function" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent(ending: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stderr is not None
    processes = {int(parent.stdout.readline()) for _ in range(8)}
    parent.send_signal(ending)
    try:
        rest, errors = parent.communicate(timeout=30)
    finally:
        parent.kill()
    for process in processes | {int(line) for line in rest.split()}:
        wait_for_end(process)
    assert parent.returncode == -ending
    assert errors.count("Traceback") == (ending == signal.SIGINT)  # the parent's own KeyboardInterrupt


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)
def test_the_limit_of_a_container_bounds_the_cores(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    assert usable_cores() == cores


def test_none_takes_all_cores_for_many_items_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores() >= 1
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    for count in (module.FEW, module.FEW + 1):
        found = list(map_in_order(square_slowly, range(count), None))
        assert [item for item, _ in found] == list(range(count))
        assert (os.getpid() in {process for _, (_, process) in found}) == (count == module.FEW)


def test_workers_do_not_load_torch() -> None:
    assert list(map_in_order(has_torch, [1], 2)) == [(1, False)]


@pytest.mark.parametrize("workers", [0, -1])
def test_less_than_one_worker_is_refused(workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers must be at least 1, got {workers}; None takes"):
        map_in_order(invert, [1], workers)


def test_groups_are_as_short_as_their_size_allows() -> None:
    assert list(group([3, 1, 1, 5, 1], 4, int)) == [[3, 1], [1, 5], [1]]
    assert list(group([], 4, int)) == []
