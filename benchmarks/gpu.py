"""Run every benchmark that has figures of a GPU, one after the other, in at most 6 minutes.

    bash benchmarks/gpu.sh [--dry_run] [--cpu] [--gpus N]

Prints Markdown: the device, versions, date and commit, then each command with its output. Each has a time limit
of its own; one that fails or exceeds it is named at the end, and the others run. With two GPUs or more, the
last one compares `data_parallel` and `sharded` with DDP and FSDP2 by NCCL.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SECONDS = 360
"""Longest time of all commands."""
PROBE = """
import torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(len(names), torch.__version__, names[0] if names else "no GPU", sep="\\t")
"""


class Command(NamedTuple):
    """A benchmark.

    Fields:
        name: its file in this folder, without ".py".
        seconds: its time limit.
        flags: of a measurement on a GPU.
        tiny: flags of a trial on a CPU; None: it is left out there.
    """

    name: str
    seconds: int
    flags: tuple[str, ...]
    tiny: tuple[str, ...] | None = None


COMMANDS = (
    Command("pretraining", 90, ("--pairs", "10")),
    Command("generation", 40, ("--pairs", "5")),
    Command(
        "attention",
        40,
        ("--pairs", "5", "--length", "512", "2048", "--mode", "compiled", "--dtype", "bfloat16"),
        ("--pairs", "1", "--length", "128", "--mode", "eager", "--dtype", "float32"),
    ),
    Command("dpo", 40, ("--pairs", "5")),
    Command("grpo", 55, ("--pairs", "3")),
    Command("random_uniform", 15, ("--pairs", "5")),
    Command("pipe_index", 10, ("--pairs", "5"), ("--pairs", "1")),
)
LARGE = (
    *("--device", "cuda", "--preset", "smollm2_135m", "--rows", "8", "--length", "1024"),
    *("--dtype", "bfloat16", "--pairs", "5"),
)
TINY = ("--preset", "tiny_config", "--sides", "data_parallel", "DDP", "--pairs", "1", "--steps", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all commands; return 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry_run", action="store_true", help="list the commands and their limits")
    parser.add_argument("--cpu", action="store_true", help="try a few, tiny, without a GPU")
    parser.add_argument("--gpus", type=int, help="GPUs (default: those that torch sees)")
    options = parser.parse_args(arguments)
    version, device = "", ""
    if options.gpus is None and not options.dry_run:
        count, version, device = probe()
        options.gpus = count
        if not count and not options.cpu:
            print("gpu: torch sees no GPU; give --cpu to try the script without one", file=sys.stderr)
            return 2
    chosen = commands(options.gpus or 1, options.cpu)
    if options.dry_run:
        for command in chosen:
            print(f"{command.seconds:>4} s  {' '.join(line(command))}")
        print(f"{sum(x.seconds for x in chosen):>4} s  at most")
        return 0
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    print(f"# {'CPU' if options.cpu else f'{options.gpus} x {device}'}, {now}\n")
    print(f"commit {commit()}, torch {version}, Python {platform.python_version()}\n", flush=True)
    failed = run(chosen, options.cpu)
    print(f"failed: {', '.join(failed)}" if failed else "all commands ran")
    return 1 if failed else 0


def commands(gpus: int, cpu: bool) -> list[Command]:
    """Return what is run with so many GPUs, or on a CPU."""
    if cpu:
        tiny = [x._replace(flags=x.tiny, seconds=120) for x in COMMANDS if x.tiny is not None]
        return [*tiny, Command("parallel", 120, TINY)]
    sides = (
        ("--processes", str(gpus), "--compile")
        if gpus > 1
        else ("--processes", "1", "--sides", "one_process", "DDP", "--compile")
    )
    return [*COMMANDS, Command("parallel", 60, (*LARGE, *sides))]


def line(command: Command) -> list[str]:
    """Return the words of a command line."""
    return ["python", f"benchmarks/{command.name}.py", *command.flags]


def run(chosen: Sequence[Command], cpu: bool) -> list[str]:
    """Run commands, print their output as it comes, and return the names of those that failed."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    failed, end = [], time.monotonic() + max(SECONDS, sum(x.seconds for x in chosen) if cpu else 0)
    for command in chosen:
        print(f"## `{' '.join(line(command))}`\n\n```", flush=True)
        start = time.monotonic()
        limit = max(1.0, min(command.seconds, end - start))
        words = [sys.executable, *line(command)[1:]]
        process = subprocess.Popen(words, cwd=HERE.parent, env=environment, start_new_session=True)
        try:
            status = f"exit status {code}" if (code := process.wait(limit)) else ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = f"stopped after {limit:.0f} s"
        if status:
            failed.append(f"{command.name} ({status})")
        print(f"```\n\n{time.monotonic() - start:.0f} s{', ' + status if status else ''}\n", flush=True)
    return failed


def probe() -> tuple[int, str, str]:
    """Return the number of GPUs that torch sees, its version, and the first one's name."""
    output = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout
    count, version, name = output.strip().split("\t")
    return int(count), version, name


def commit() -> str:
    """Return the commit of this folder, with a plus if files differ from it."""
    words = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
