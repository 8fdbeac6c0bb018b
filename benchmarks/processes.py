"""End processes of a run on two processes, by kill -9 and by signals, and resume it; compare every bit.

Each round is `intro2llm pretrain` in two processes that are joined by gloo without torchrun, so that nothing
but themselves ends them. One is killed (kill -9), in four of ten rounds while a checkpoint is saved; or
one gets SIGTERM; or both get SIGINT, as by Ctrl-C. Half of the rounds hold the state in rows (--shard state).
The same command then resumes, and the log and the final weights must be those of a run never interrupted.

    OMP_NUM_THREADS=1 python benchmarks/processes.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from _interrupted import SHAPE, STEPS, is_saving, list_flags, pretrain, read_results

KINDS: Mapping[str, tuple[signal.Signals, tuple[int, ...]]] = {
    "kill -9 of process 0": (signal.SIGKILL, (0,)),
    "kill -9 of process 1": (signal.SIGKILL, (1,)),
    "SIGTERM to process 0": (signal.SIGTERM, (0,)),
    "SIGTERM to process 1": (signal.SIGTERM, (1,)),
    "SIGINT to both": (signal.SIGINT, (0, 1)),
}


class Round(NamedTuple):
    """Result of one round.

    Fields:
        codes: exit codes of the processes that were not killed.
        seconds: from the signal until the last process ended.
        during_save: a checkpoint was being saved.
        damaged: the resumed run skipped a damaged checkpoint.
        equal: log and weights are those of the run never interrupted.
    """

    codes: tuple[int | None, ...]
    seconds: float
    during_save: bool
    damaged: bool
    equal: bool


def main() -> None:
    """Print a line for each kind of end; fail if a process hung, a checkpoint was lost, or a bit differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=20, help="rounds of kills, SIGTERM, SIGINT (default 20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default 0)")
    options = parser.parse_args()
    print(
        f"{'end':<22} {'rounds':>6} {'in a save':>9} {'codes':>10} {'s, longest':>10} {'equal':>6}",
        flush=True,
    )
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder))
        expected = {shard: run_whole(Path(folder), shard) for shard in ("none", "state")}
        for name, (number, ranks) in KINDS.items():
            count = options.rounds // 2 if len(ranks) == 1 else options.rounds
            own = [
                run_round(
                    Path(folder), number, ranks, i, random.Random(f"{options.seed} {name} {i}"), expected
                )
                for i in range(count)
            ]
            rounds += own
            codes = ",".join(str(code) for code in sorted({code for r in own for code in r.codes}, key=str))
            cells = f"{count:>6} {sum(r.during_save for r in own):>9} {codes:>10}"
            longest = max(r.seconds for r in own)
            print(f"{name:<22} {cells} {longest:>10.1f} {sum(r.equal for r in own):>6}", flush=True)
    assert all(r.equal and not r.damaged and r.seconds < 10 for r in rounds), rounds
    assert all(code not in (0, None) for r in rounds for code in r.codes), rounds


def run_round(
    folder: Path,
    number: signal.Signals,
    ranks: tuple[int, ...],
    index: int,
    rng: random.Random,
    expected: Mapping[str, tuple],
) -> Round:
    """Start a run, end processes at a random moment, and resume it."""
    shard = ("none", "state")[index % 2]
    run = folder / f"run-{number}-{ranks}-{index}"
    processes = start(folder, run, shard)
    step, in_save = rng.randrange(2, STEPS - 8), number == signal.SIGKILL and index % 5 < 2
    log, until = run / "metrics.jsonl", time.monotonic() + 120
    while not log.exists() or log.read_bytes().count(b"\n") < step or (in_save and not is_saving(run)):
        assert all(process.is_alive() for process in processes), "the run ended before the signal"
        assert time.monotonic() < until, "the run did not come to the moment of the signal"
        time.sleep(0.0003)
    begin, during_save = time.monotonic(), is_saving(run)
    for rank in ranks:
        os.kill(processes[rank].pid or 0, number)
    codes = end(processes)
    seconds = time.monotonic() - begin
    kept = [code for rank, code in enumerate(codes) if number != signal.SIGKILL or rank not in ranks]
    assert end(start(folder, run, shard)) == [0, 0], (run / "0.err").read_text()
    damaged = "skipped a damaged" in (run / "0.out").read_text()
    return Round(tuple(kept), seconds, during_save, damaged, read_results(run) == expected[shard])


def run_whole(folder: Path, shard: str) -> tuple:
    """Run without an interruption, and return its result."""
    assert end(start(folder, folder / shard, shard)) == [0, 0], (folder / shard / "0.err").read_text()
    return read_results(folder / shard)


def write_text(folder: Path) -> None:
    """Write a small text and a model configuration."""
    lines = [f"def add_{i}(left, right): return left + {i} * right" for i in range(2000)]
    (folder / "text.txt").write_text("\n".join(lines))
    (folder / "config.json").write_text(json.dumps(dict(SHAPE)))


def start(folder: Path, run: Path, shard: str) -> list[ForkServerProcess]:
    """Start two processes of a run; what they print is in RUN/0.out, 0.err, 1.out and 1.err."""
    run.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stages.run.parallel", "stages.run.build", "stages.run.loop"])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    paths = {"config": folder / "config.json", "data_path": folder / "text.txt"}
    words = list_flags(run, **paths, eval_every=6, dtype="float32", shard=shard, workers=1)
    processes = []
    for rank in range(2):
        place = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        arguments = (
            {name: str(x) for name, x in place.items()},
            [*words, "--no_compile"],
            str(run / str(rank)),
        )
        process = context.Process(target=run_process, args=arguments, daemon=True)
        process.start()
        processes.append(process)
    return processes


def end(processes: list[ForkServerProcess]) -> list[int | None]:
    """Wait until the processes have ended, and return their exit codes; None for one that hangs."""
    until = time.monotonic() + 120
    for process in processes:
        process.join(max(until - time.monotonic(), 0))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def run_process(variables: dict[str, str], words: list[str], printed: str) -> None:
    """Body of a process."""
    os.environ.update(variables)
    pretrain(words, f"{printed}.out", f"{printed}.err")


if __name__ == "__main__":
    main()
