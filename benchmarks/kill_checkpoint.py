"""Kill a process that saves checkpoints continuously (kill -9, at random moments), and load the newest one.

Each round resumes in the same run's folder, as a user would. After the kill the newest checkpoint must load
without falling back to an older one, be at least as new as the last completed save, and have the right
values.

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

LEAVES, LENGTH = 8, 1 << 15  # of float32: a megabyte


class Kill(NamedTuple):
    """Result of one kill."""

    during_save: bool  # a temporary folder was left
    saved: int  # last step whose save was completed
    loaded: int  # step that was loaded
    good: bool  # its values are right, and no newer checkpoint was damaged


def main() -> None:
    """Print the number of kills during a save, and assert that none lost a checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="rounds (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills' times (default 0)")
    parser.add_argument("--background", action="store_true", help="save in the background, not in the loop")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = [random.Random(f"{options.seed} {i}") for i in range(options.kills)]
        kills = [kill_once(Path(folder), rng, options.background) for rng in rounds]
    lost = [k for k in kills if not k.good or k.loaded < k.saved]
    during_save = sum(k.during_save for k in kills)
    print(f"kills {len(kills)}, during a save {during_save}, last step {kills[-1].loaded}, lost {len(lost)}")
    assert not lost, lost
    assert during_save > 0, "no kill happened during a save; give more --kills"


def kill_once(run: Path, rng: random.Random, in_background: bool) -> Kill:
    """Start a process that saves, kill it, and check its newest checkpoint."""
    newest = checkpoint.latest(run)
    first = 1 + (directories.step_of(newest) if newest else 0)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        save_forever(run, first, write_end, in_background)
    os.close(write_end)
    os.read(read_end, 8)  # wait until it has started
    time.sleep(rng.uniform(0.0, 0.06))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    steps = b"".join(iter(lambda: os.read(read_end, 1 << 16), b""))
    os.close(read_end)
    assert os.WIFSIGNALED(status), "the saving process failed before it was killed; its traceback is above"
    saved = int.from_bytes(steps[-8:], "big") if steps else first - 1
    root = run / directories.FOLDER
    during_save = not root.exists() or any(name.endswith(".tmp") for name in os.listdir(root))
    return check_newest(run, during_save, saved)


def check_newest(run: Path, during_save: bool, saved: int) -> Kill:
    """Load the newest checkpoint of a killed process, and compare it with the state of its step."""
    if saved == 0 and checkpoint.latest(run) is None:
        return Kill(during_save, 0, 0, True)  # killed during the very first save
    warnings: list[str] = []
    loaded = checkpoint.load(run, state(0), warn=warnings.append)
    right = all(torch.equal(x, y) for x, y in zip(loaded.state, state(loaded.step), strict=True))
    return Kill(during_save, saved, loaded.step, right and not loaded.skipped and not warnings)


def save_forever(run: Path, step: int, pipe: int, in_background: bool) -> NoReturn:
    """Save one step after another, and write the step of each completed save to the pipe."""
    try:
        saver = background.make_saver(run, keep_last=2)
        os.write(pipe, bytes(8))
        while True:
            if in_background:
                saver.save(state(step), step=step)
            else:
                checkpoint.save(run, state(step), step=step, keep_last=2)
            done = step - 1 if in_background else step  # in the background, only the previous save has ended
            os.write(pipe, done.to_bytes(8, "big"))
            step += 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def state(step: int) -> list[torch.Tensor]:
    """Return a megabyte of values that depend on the step."""
    return [torch.full((LENGTH,), float(step * LEAVES + i)) for i in range(LEAVES)]


if __name__ == "__main__":
    main()
