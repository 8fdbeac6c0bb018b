"""Kill one of several processes that save a state in rows (kill -9, at random moments), and load the newest one.

Each round resumes in the same run's folder. Every process trains (a collective a step) and saves in the
background as fast as it can; one of them is killed. The others must end with an error within 10 s. Then the
newest checkpoint must load without falling back to an older one, be at least as new as the last completed save,
and have the right values.

    python benchmarks/kill_pieces.py [--kills 20] [--processes 3] [--format dcp]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
import torch.distributed as dist

from pure import tree
from pure.parallel import rows
from pure.parallel.group import group_of
from stages.checkpoint import background, checkpoint, directories

LEAVES, LENGTH = 8, 1 << 15  # of float32: a megabyte
SECONDS = 10.0  # in which the others must end


class Kill(NamedTuple):
    """Result of one kill."""

    during_save: bool  # a temporary folder was left
    saved: int  # last step whose save all processes knew to be completed
    loaded: int  # step that was loaded
    good: bool  # its values are right, and no newer checkpoint was damaged
    seconds: float  # until the last of the others had ended
    clean: bool  # all others ended with an error of their own


def main() -> None:
    """Print the number of kills during a save, and assert that none lost a checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="rounds (default 20)")
    parser.add_argument("--processes", type=int, default=3, help="processes of a round (default 3)")
    parser.add_argument("--format", default="state", choices=("state", "dcp"), help="of the files")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills' times (default 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rounds = [random.Random(f"{options.seed} {i}") for i in range(options.kills)]
        kills = [kill_once(Path(folder), rng, options.processes, options.format) for rng in rounds]
    lost = [k for k in kills if not k.good or k.loaded < k.saved]
    during_save, slowest = sum(k.during_save for k in kills), max(k.seconds for k in kills)
    print(
        f"kills {len(kills)} of one of {options.processes}, during a save {during_save}, last step "
        f"{kills[-1].loaded}, others ended after at most {slowest:.1f} s, lost {len(lost)}"
    )
    assert not lost, lost
    assert slowest < SECONDS, "a process outlived the killed one for too long"
    assert all(k.clean for k in kills), "a process ended without an error"
    assert during_save > 0, "no kill happened during a save; give more --kills"


def kill_once(run: Path, rng: random.Random, processes: int, format: str) -> Kill:
    """Start processes that save, kill one, and check the newest checkpoint."""
    newest = checkpoint.latest(run)
    first = 1 + (directories.step_of(newest) if newest else 0)
    port = free_port()
    read_end, write_end = os.pipe()
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.close(read_end)
            save_forever(run, first, rank, processes, port, write_end, format)
        children.append(child)
    os.close(write_end)
    os.read(read_end, 8)  # wait until the first process has saved once
    time.sleep(rng.uniform(0.0, 0.2))
    victim = rng.randrange(processes)
    os.kill(children[victim], signal.SIGKILL)
    begin = time.monotonic()
    seconds, clean = wait_for_others(children, victim, begin)
    steps = b"".join(iter(lambda: os.read(read_end, 1 << 16), b""))
    os.close(read_end)
    saved = int.from_bytes(steps[-8:], "big") if steps else first
    during_save = any(name.endswith(".tmp") for name in os.listdir(run / directories.FOLDER))
    return check_newest(run, during_save, saved, seconds, clean)


def wait_for_others(children: list[int], victim: int, begin: float) -> tuple[float, bool]:
    """Wait for all processes; return when the last one ended, and whether all others ended with code 1."""
    codes, left = {}, dict(enumerate(children))
    while left:
        for rank, child in list(left.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[rank] = os.waitstatus_to_exitcode(status)
                del left[rank]
        if time.monotonic() - begin > 6 * SECONDS:
            for child in left.values():
                os.kill(child, signal.SIGKILL)
            raise AssertionError(f"processes {sorted(left)} have not ended after {6 * SECONDS:.0f} s")
        time.sleep(0.01)
    return time.monotonic() - begin, all(code == 1 for rank, code in codes.items() if rank != victim)


def check_newest(run: Path, during_save: bool, saved: int, seconds: float, clean: bool) -> Kill:
    """Load the newest checkpoint with one process, and compare it with the state of its step."""
    warnings: list[str] = []
    loaded = checkpoint.load(run, state(0), warn=warnings.append)
    right = all(torch.equal(x, y) for x, y in zip(loaded.state, state(loaded.step), strict=True))
    damaged = [text for text in warnings if "damaged" in text]
    return Kill(during_save, saved, loaded.step, right and not loaded.skipped and not damaged, seconds, clean)


def save_forever(
    run: Path, step: int, rank: int, processes: int, port: int, pipe: int, format: str
) -> NoReturn:
    """Save one step after another; the first process writes the step of each completed save to the pipe."""
    try:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=processes,
            timeout=timedelta(seconds=60),
        )
        group = group_of("kill_pieces", dist.group.WORLD)
        saver = background.make_saver(run, group=group, keep_last=2, format=format)
        begun = step
        while True:
            saver.save(tree.map(lambda x: rows.cut(x, group), state(step)), step=step)
            dist.barrier()  # a step of the training
            if rank == 0 and step > begun:
                os.write(pipe, (step - 1).to_bytes(8, "big"))
            step += 1
    except BaseException:
        saver.close()
    finally:
        os._exit(1)


def state(step: int) -> list[torch.Tensor]:
    """Return a megabyte of values that depend on the step."""
    return [torch.full((LENGTH,), float(step * LEAVES + i)) for i in range(LEAVES)]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    main()
