"""Kills a process that saves checkpoints without pause (kill -9, at random moments), and loads what it left.

Each round goes on in the same run's folder, as a user would. After the kill the newest checkpoint must load
at once, without one that is damaged, be at least as new as the last save that had returned, and have the
right numbers.

    python benchmarks/kill_checkpoint.py [--kills 200] [--background]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch

from stages.checkpoint import background, checkpoint, directories

LEAVES, NUMBERS = 8, 1 << 15  # of float32: a megabyte


class Kill(NamedTuple):
    """What one kill did."""

    inside: bool  # of a save: a temporary folder was left
    returned: int  # the last step whose save had returned
    loaded: int  # the step that was loaded
    good: bool  # its numbers are right, and nothing newer was damaged


def main() -> None:
    """Prints how many kills fell inside a save, and asserts that none lost anything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="rounds (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--background", action="store_true", help="save in the background")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills = [kill(Path(folder), draw, options.background) for draw in draws(options.seed, options.kills)]
    lost = [k for k in kills if not k.good or k.loaded < k.returned]
    inside = sum(k.inside for k in kills)
    print(
        f"kills {len(kills)}, inside a save {inside}, checkpoints passed {kills[-1].loaded}, lost {len(lost)}"
    )
    assert not lost, lost
    assert inside > 0, "no kill fell inside a save; try more"


def draws(seed: int, count: int) -> list[random.Random]:
    """A generator for each round."""
    return [random.Random(f"{seed} {i}") for i in range(count)]


def kill(run: Path, draw: random.Random, beside: bool) -> Kill:
    """Starts a saving process, kills it, and loads."""
    first = 1 + (directories.step_of(found) if (found := checkpoint.latest(run)) else 0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        save_for_ever(run, first, writing, beside)
    os.close(writing)
    os.read(reading, 8)  # it has begun
    time.sleep(draw.uniform(0.0, 0.06))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    said = b"".join(iter(lambda: os.read(reading, 1 << 16), b""))
    os.close(reading)
    assert os.WIFSIGNALED(status), "the saving process failed before it was killed; its traceback is above"
    returned = int.from_bytes(said[-8:], "big") if said else first - 1
    root = run / directories.FOLDER
    inside = not root.exists() or any(name.endswith(".tmp") for name in os.listdir(root))
    return look(run, inside, returned)


def look(run: Path, inside: bool, returned: int) -> Kill:
    """Loads what a killed process left."""
    if returned == 0 and checkpoint.latest(run) is None:
        return Kill(inside, 0, 0, True)  # killed in the first save of all
    heard: list[str] = []
    loaded = checkpoint.load(run, state(0), warn=heard.append)
    right = all(torch.equal(x, y) for x, y in zip(loaded.state, state(loaded.step), strict=True))
    return Kill(inside, returned, loaded.step, right and not loaded.refused and not heard)


def save_for_ever(run: Path, step: int, told: int, beside: bool) -> NoReturn:
    """Saves step after step, and writes the number of each whose save returned to the pipe `told`."""
    try:
        saver = background.saver(run, keep_last=2)
        os.write(told, bytes(8))
        while True:
            if beside:
                saver.save(state(step), step=step)
            else:
                checkpoint.save(run, state(step), step=step, keep_last=2)
            done = step - 1 if beside else step  # in the background it is the save before that has ended
            os.write(told, done.to_bytes(8, "big"))
            step += 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def state(step: int) -> list[torch.Tensor]:
    """A megabyte whose every number depends on the step."""
    return [torch.full((NUMBERS,), float(step * LEAVES + i)) for i in range(LEAVES)]


if __name__ == "__main__":
    main()
