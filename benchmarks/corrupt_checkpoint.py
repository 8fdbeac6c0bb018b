"""Damages checkpoints in twelve ways: every one must be noticed and named, and the one before it loaded
instead.

A run with two checkpoints; the newer one is damaged, loaded, and mended again. Each trial checks that the
state that comes back is the older one, bit for bit, and that the refusal names the file and (where that can
be told) the leaf.

    python benchmarks/corrupt_checkpoint.py [--trials 2000]
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from pure import tree
from stages.checkpoint import checkpoint, manifest
from stages.checkpoint.manifest import MANIFEST, STATE, LeafRecord, Manifest
from stages.state import TrainState

Damaged = tuple[str, set[str]]  # the file that must be named, and the leaves that must be among those named


def main() -> None:
    """Prints, for each kind of damage, how many were noticed, named and survived."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=2000, help="checkpoints to damage (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: dict[str, collections.Counter] = {name: collections.Counter() for name in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        make(run)
        for i in range(options.trials):
            name = list(KINDS)[i % len(KINDS)]
            counts[name].update(trial(run, name, random.Random(f"{options.seed} {i}")))
            counts[name]["trials"] += 1
    print(f"{'damage':<28} {'trials':>7} {'noticed':>8} {'named':>7} {'older one loaded':>17}")
    for name, seen in counts.items():
        print(f"{name:<28} {seen['trials']:>7} {seen['noticed']:>8} {seen['named']:>7} {seen['loaded']:>17}")
    every = sum(counts.values(), collections.Counter())
    print(f"{'all':<28} {every['trials']:>7} {every['noticed']:>8} {every['named']:>7} {every['loaded']:>17}")
    assert every["noticed"] == every["named"] == every["loaded"] == every["trials"]


def make(run: Path) -> None:
    """A run with checkpoints of steps 1 and 2, and copies of their files aside."""
    for step in (1, 2):
        checkpoint.save(
            run, state(step), metadata={"note": "ärger"}, score=1.0 / step, fingerprint={"lr": "0.1"}
        )
    shutil.copytree(run / "checkpoints", run / "aside")


def state(step: int) -> TrainState:
    """A small state with every kind of leaf."""
    draw = torch.Generator().manual_seed(step)

    def params() -> dict:
        layers = [
            {"q": torch.randn(16, 8, generator=draw), "k": torch.randn(16, 8, generator=draw)}
            for _ in range(3)
        ]
        return {"embedding": torch.randn(64, 8, generator=draw).bfloat16(), "layers": layers}

    return TrainState(
        step=torch.tensor(step, dtype=torch.int32),
        key=torch.tensor([0, 42], dtype=torch.uint32),
        params=params(),
        opt_state=({"count": torch.tensor(step, dtype=torch.int32), "mu": params()}, ()),
        extra={"empty": torch.zeros(0, 3), "flag": torch.tensor(True)},
        metrics={"loss": torch.tensor(1.0 / step)},
    )


def trial(run: Path, kind: str, draw: random.Random) -> list[str]:
    """Damages the newer checkpoint, loads, mends it. Returns which of "noticed", "named", "loaded" held."""
    folder, good = run / "checkpoints" / "step-00000002", run / "aside" / "step-00000002"
    file, leaves = KINDS[kind](folder, manifest.decode((good / MANIFEST).read_bytes()), draw)
    heard: list[str] = []
    loaded = checkpoint.load(run, tree.zeros_like(state(1)), warn=heard.append)
    refused = loaded.refused[0] if loaded.refused else None
    shutil.rmtree(folder)
    shutil.copytree(good, folder)
    held = {
        "noticed": refused is not None and len(heard) == 1,
        "named": refused is not None
        and refused.file == file
        and file in heard[0]
        and leaves <= set(refused.leaves),
        "loaded": loaded.step == 1 and same(loaded.state, state(1)),
    }
    return [name for name, yes in held.items() if yes]


def same(a: TrainState, b: TrainState) -> bool:
    """Equal, bit for bit."""
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def flip_data(folder: Path, told: Manifest, draw: random.Random) -> Damaged:
    """One bit of a leaf's numbers."""
    leaf = draw.choice([leaf for leaf in told.leaves if leaf.bytes])
    return flip(folder / STATE, leaf.spans[0][0] + draw.randrange(leaf.bytes), draw), {leaf.path}


def flip_header(folder: Path, told: Manifest, draw: random.Random) -> Damaged:
    """One bit of a leaf's name, shape, dtype or length."""
    i = draw.randrange(len([leaf for leaf in told.leaves if leaf.spans]))
    start = sum(told.leaves[i - 1].spans[-1]) if i else 0
    return flip(folder / STATE, draw.randrange(start, told.leaves[i].spans[0][0]), draw), {
        told.leaves[i].path
    }


def flip(path: Path, place: int, draw: random.Random) -> str:
    """Flips a bit of a byte; returns the file's name."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return path.name


def zeros(folder: Path, told: Manifest, draw: random.Random) -> Damaged:
    """A sector of zeros, as after a lost write."""
    data = bytearray((folder / STATE).read_bytes())
    start = draw.randrange(len(data) - 512)
    hit = {leaf.path for leaf in told.leaves if any_changed(leaf, data, start, start + 512)}
    data[start : start + 512] = bytes(512)
    (folder / STATE).write_bytes(data)
    return STATE, hit


def any_changed(leaf: LeafRecord, data: bytearray, start: int, end: int) -> bool:
    """Whether zeroing [start, end) changes a leaf's numbers."""
    return any(any(data[max(start, at) : min(end, at + size)]) for at, size in leaf.spans)


def cut(folder: Path, told: Manifest, draw: random.Random) -> Damaged:
    """The end of the file is missing."""
    size = draw.randrange(1, told.bytes)
    os.truncate(folder / STATE, size)
    return STATE, {leaf.path for leaf in told.leaves if leaf.bytes and sum(leaf.spans[-1]) > size}


def longer(folder: Path, told: Manifest, draw: random.Random) -> Damaged:
    """Something follows the end."""
    with open(folder / STATE, "ab") as file:
        file.write(draw.randbytes(draw.randrange(1, 100)))
    return STATE, set()


def emptied(folder: Path, told: Manifest, draw: random.Random) -> Damaged:
    """No byte is left."""
    os.truncate(folder / STATE, 0)
    return STATE, {leaf.path for leaf in told.leaves if leaf.bytes}


def missing(folder: Path, told: Manifest, draw: random.Random) -> Damaged:
    """The file is gone, or a folder stands in its place."""
    (folder / STATE).unlink()
    if draw.random() < 0.5:
        (folder / STATE).mkdir()
    return STATE, {leaf.path for leaf in told.leaves if leaf.bytes}


def swapped(folder: Path, told: Manifest, draw: random.Random) -> Damaged:
    """The numbers of two leaves of one shape have changed places: well formed, and wrong."""
    one, two = draw.sample([leaf for leaf in told.leaves if leaf.path.startswith("params/layers")], 2)
    data = bytearray((folder / STATE).read_bytes())
    (a, size), (b, _) = one.spans[0], two.spans[0]
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    (folder / STATE).write_bytes(data)
    return STATE, {one.path, two.path}


def another(folder: Path, told: Manifest, draw: random.Random) -> Damaged:
    """The state of another step: a good file in the wrong place."""
    shutil.copy(folder.parent / "step-00000001" / STATE, folder / STATE)
    return STATE, {"step", "params/embedding", "params/layers/0/q", "metrics/loss"}


def flip_manifest(folder: Path, told: Manifest, draw: random.Random) -> Damaged:
    """One bit of the manifest, be it in a number, a name or a blank."""
    return flip(folder / MANIFEST, draw.randrange((folder / MANIFEST).stat().st_size), draw), set()


def cut_manifest(folder: Path, told: Manifest, draw: random.Random) -> Damaged:
    """The manifest ends early, or is empty."""
    os.truncate(folder / MANIFEST, draw.randrange((folder / MANIFEST).stat().st_size))
    return MANIFEST, set()


def no_manifest(folder: Path, told: Manifest, draw: random.Random) -> Damaged:
    """The manifest is gone, or belongs to another step."""
    (folder / MANIFEST).unlink()
    if draw.random() < 0.5:
        shutil.copy(folder.parent / "step-00000001" / MANIFEST, folder / MANIFEST)
    return MANIFEST, set()


KINDS: Mapping[str, Callable[[Path, Manifest, random.Random], Damaged]] = {
    "a bit of a leaf's data": flip_data,
    "a bit of a leaf's header": flip_header,
    "512 bytes of zeros": zeros,
    "the end cut off": cut,
    "bytes after the end": longer,
    "an empty file": emptied,
    "no file": missing,
    "two leaves swapped": swapped,
    "the file of another step": another,
    "a bit of the manifest": flip_manifest,
    "a manifest cut off": cut_manifest,
    "no manifest, or another's": no_manifest,
}


if __name__ == "__main__":
    main()
