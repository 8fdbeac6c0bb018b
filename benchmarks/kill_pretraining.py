"""Kill pretraining (kill -9, at random moments) and resume it until it ends; compare every bit.

Each run is `intro2llm pretrain` in one folder, started again after every kill, as a user would. It is killed
at random moments: between saves, during them (four in ten wait until a save has begun), while it starts, and
while text is tokenized. After the last kill it runs to its end. Its state, final weights and metrics.jsonl
(without timings) must then be bit-identical to those of a run that was never killed.

    python benchmarks/kill_pretraining.py [--kills 200] [--compile]

Without --compile steps are eager, and the processes come from a fork server, so that 200 kills take minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import signal
import tempfile
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from _interrupted import SHAPE, is_saving, list_flags, pretrain, read_results


class Kill(NamedTuple):
    """State of a run when it was killed."""

    during_save: bool  # a temporary folder was left
    step: int  # last step in metrics.jsonl


class Run(NamedTuple):
    """One run: its kills, and whether its results are bit-identical to those of the run never killed."""

    kills: list[Kill]
    equal: bool


def main() -> None:
    """Print the number of kills and of bit-identical runs; fail if a run differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="total number of kills (default 200)")
    parser.add_argument("--per_run", type=int, default=8, help="kills before a run may end (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kill times (default 0)")
    parser.add_argument("--compile", action="store_true", help="compile the step (many minutes)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        prepare(work)
        start(work, "never_killed", options.compile).join()
        runs: list[Run] = []
        while (done := sum(len(run.kills) for run in runs)) < options.kills:
            rng = random.Random(f"{options.seed} {len(runs)}")
            runs.append(kill_run(work, min(options.per_run, options.kills - done), rng, options.compile))
            verdict = "equal" if runs[-1].equal else "NOT EQUAL"
            print(f"run {len(runs)}: {len(runs[-1].kills)} kills, {verdict}", flush=True)
    print_summary(runs)


def print_summary(runs: list[Run]) -> None:
    """Print the totals over all runs, and check them."""
    kills = [kill for run in runs for kill in run.kills]
    during_save = sum(kill.during_save for kill in kills)
    early = sum(kill.step == 0 for kill in kills)
    equal = sum(run.equal for run in runs)
    print(f"kills {len(kills)}, during a save {during_save}, before the first step {early}")
    print(f"runs {len(runs)}; state, weights and metrics.jsonl bit-identical to a run never killed: {equal}")
    assert equal == len(runs), f"{len(runs) - equal} of {len(runs)} runs differ from the run never killed"
    assert during_save >= len(kills) // 10, (
        f"expected at least {len(kills) // 10} kills during a save, got {during_save}; raise --kills"
    )


def prepare(work: Path) -> None:
    """Write a configuration, and a text that takes a moment to tokenize."""
    (work / "shape.json").write_text(json.dumps(SHAPE))
    (work / "text").mkdir()
    for i in range(12):
        lines = [f"def add_{i}_{k}(left, right): return left + {k * i} * right" for k in range(60)]
        (work / "text" / f"{i}.txt").write_text("\n".join(lines) + "\n")


def kill_run(work: Path, count: int, rng: random.Random, compile: bool) -> Run:
    """Kill one run up to `count` times, let it finish, and compare its results.

    Fewer times if it finishes before the next kill.
    """
    kills: list[Kill] = []
    while len(kills) < count:
        process = start(work, "killed", compile)
        wait_randomly(work / "killed", process, rng)
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            break
        kills.append(describe_kill(work / "killed"))
    process = start(work, "killed", compile)
    process.join()
    assert process.exitcode == 0, f"the resumed run ended with exit code {process.exitcode}"
    equal = read_state_and_results(work / "killed") == read_state_and_results(work / "never_killed")
    shutil.rmtree(work / "killed")
    return Run(kills, equal)


def wait_randomly(folder: Path, process: ForkServerProcess, rng: random.Random) -> None:
    """Wait until the next save is being written (four times in ten), else for a random time."""
    if rng.random() < 0.4:
        while process.is_alive() and not is_saving(folder):
            time.sleep(0.0002)
        time.sleep(rng.uniform(0.0, 0.003))
    else:
        time.sleep(rng.uniform(0.0, 1.2))


def describe_kill(folder: Path) -> Kill:
    """Describe the folder of a killed run."""
    path = folder / "metrics.jsonl"
    return Kill(is_saving(folder), path.read_bytes().count(b"\n") if path.exists() else 0)


def read_state_and_results(folder: Path) -> tuple:
    """Read what is compared: the bytes of the last state, log and final weights."""
    state = max((folder / "checkpoints").glob("step-????????")) / "state.msgpack"
    return state.read_bytes(), read_results(folder)


def start(work: Path, name: str, compile: bool) -> ForkServerProcess:
    """Start or resume a run in a child process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stages.run.build", "stages.run.loop"])
    paths = {"config": work / "shape.json", "data_path": work / "text"}
    words = list_flags(work / name, **paths, eval_every=8, learning_rate=0.01)
    process = context.Process(target=pretrain, args=([*words, "--compile" if compile else "--no-compile"],))
    process.start()
    return process


if __name__ == "__main__":
    main()
