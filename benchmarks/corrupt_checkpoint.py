"""Corrupt checkpoints in twelve ways: each must be detected and named, and the previous checkpoint loaded.

A run has two checkpoints; the newer one is corrupted, loaded, and restored. Each trial checks that the loaded
state is the older one, bit for bit, and that the error names the file and (where known) the leaf.

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
from stages.checkpoint.manifest import MANIFEST, STATE, Manifest
from stages.checkpoint.records import LeafRecord
from stages.state import TrainState

Damage = tuple[str, set[str]]
"""The file that the error must name, and leaves that it must name (it may name more)."""


def main() -> None:
    """Print, for each kind of damage, in how many trials it was detected, named, and the older one loaded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=2000, help="checkpoints to corrupt (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage (default 0)")
    options = parser.parse_args()
    counts: dict[str, collections.Counter] = {name: collections.Counter() for name in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        make_run(run)
        for i in range(options.trials):
            name = list(KINDS)[i % len(KINDS)]
            counts[name].update(run_trial(run, name, random.Random(f"{options.seed} {i}")))
            counts[name]["trials"] += 1
    print(f"{'damage':<28} {'trials':>7} {'detected':>8} {'named':>7} {'older one loaded':>17}")
    total = sum(counts.values(), collections.Counter())
    for name, count in [*counts.items(), ("all", total)]:
        cells = f"{count['trials']:>7} {count['detected']:>8} {count['named']:>7} {count['loaded']:>17}"
        print(f"{name:<28} {cells}")
    assert total["detected"] == total["named"] == total["loaded"] == total["trials"], "see the table above"


def make_run(run: Path) -> None:
    """Make a run with checkpoints of steps 1 and 2, and copies of both in its folder `aside`."""
    for step in (1, 2):
        checkpoint.save(
            run, state(step), metadata={"note": "ärger"}, score=1.0 / step, fingerprint={"lr": "0.1"}
        )
    shutil.copytree(run / "checkpoints", run / "aside")


def state(step: int) -> TrainState:
    """Return a small state with every kind of leaf, different at each step."""
    generator = torch.Generator().manual_seed(step)

    def params() -> dict:
        layers = [
            {"q": torch.randn(16, 8, generator=generator), "k": torch.randn(16, 8, generator=generator)}
            for _ in range(3)
        ]
        return {"embedding": torch.randn(64, 8, generator=generator).bfloat16(), "layers": layers}

    return TrainState(
        step=torch.tensor(step, dtype=torch.int32),
        key=torch.tensor([0, 42], dtype=torch.uint32),
        params=params(),
        opt_state=({"count": torch.tensor(step, dtype=torch.int32), "mu": params()}, ()),
        extra={"empty": torch.zeros(0, 3), "flag": torch.tensor(True)},
        metrics={"loss": torch.tensor(1.0 / step)},
    )


def run_trial(run: Path, kind: str, rng: random.Random) -> list[str]:
    """Corrupt the newer checkpoint, load the run, and restore it; return the checks that passed."""
    folder, intact = run / "checkpoints" / "step-00000002", run / "aside" / "step-00000002"
    file, leaves = KINDS[kind](folder, manifest.decode((intact / MANIFEST).read_bytes()), rng)
    warnings: list[str] = []
    loaded = checkpoint.load(run, tree.zeros_like(state(1)), warn=warnings.append)
    skipped = loaded.skipped[0] if loaded.skipped else None
    shutil.rmtree(folder)
    shutil.copytree(intact, folder)
    passed = ["loaded"] if loaded.step == 1 and equal_bits(loaded.state, state(1)) else []
    if skipped is None or len(warnings) != 1:
        return passed
    named = skipped.file == file and file in warnings[0] and leaves <= set(skipped.leaves)
    return ["detected", *(["named"] if named else []), *passed]


def equal_bits(a: TrainState, b: TrainState) -> bool:
    """Test that two states are equal, bit for bit."""
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def flip_data(folder: Path, record: Manifest, rng: random.Random) -> Damage:
    """Flip one bit of a leaf's data."""
    leaf = rng.choice([leaf for leaf in record.leaves if leaf.bytes])
    return flip_bit(folder / STATE, leaf.spans[0][0] + rng.randrange(leaf.bytes), rng), {leaf.path}


def flip_header(folder: Path, record: Manifest, rng: random.Random) -> Damage:
    """Flip one bit of a leaf's name, shape, dtype or length."""
    i = rng.randrange(len([leaf for leaf in record.leaves if leaf.spans]))
    # A leaf's header lies between the data of the leaf before it and its own.
    start = sum(record.leaves[i - 1].spans[-1]) if i else 0
    leaf = record.leaves[i]
    return flip_bit(folder / STATE, rng.randrange(start, leaf.spans[0][0]), rng), {leaf.path}


def flip_bit(path: Path, position: int, rng: random.Random) -> str:
    """Flip one bit of the byte at a position; return the file's name."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return path.name


def write_zeros(folder: Path, record: Manifest, rng: random.Random) -> Damage:
    """Overwrite 512 bytes with zeros, as a lost write of a sector does."""
    data = bytearray((folder / STATE).read_bytes())
    start = rng.randrange(len(data) - 512)
    changed = {leaf.path for leaf in record.leaves if changes_leaf(leaf, data, start, start + 512)}
    data[start : start + 512] = bytes(512)
    (folder / STATE).write_bytes(data)
    return STATE, changed


def changes_leaf(leaf: LeafRecord, data: bytearray, start: int, end: int) -> bool:
    """Test whether a leaf has a nonzero byte in [start, end), so that zeroing it changes the leaf."""
    return any(any(data[max(start, at) : min(end, at + size)]) for at, size in leaf.spans)


def truncate_state(folder: Path, record: Manifest, rng: random.Random) -> Damage:
    """Remove the end of the state's file."""
    size = rng.randrange(1, record.bytes)
    os.truncate(folder / STATE, size)
    return STATE, {leaf.path for leaf in record.leaves if leaf.bytes and sum(leaf.spans[-1]) > size}


def append_bytes(folder: Path, record: Manifest, rng: random.Random) -> Damage:
    """Append bytes to the state's file."""
    with open(folder / STATE, "ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 100)))
    return STATE, set()


def empty_state(folder: Path, record: Manifest, rng: random.Random) -> Damage:
    """Truncate the state's file to no bytes."""
    os.truncate(folder / STATE, 0)
    return STATE, {leaf.path for leaf in record.leaves if leaf.bytes}


def remove_state(folder: Path, record: Manifest, rng: random.Random) -> Damage:
    """Remove the state's file, or replace it by a folder."""
    (folder / STATE).unlink()
    if rng.random() < 0.5:
        (folder / STATE).mkdir()
    return STATE, {leaf.path for leaf in record.leaves if leaf.bytes}


def swap_leaves(folder: Path, record: Manifest, rng: random.Random) -> Damage:
    """Swap the data of two leaves of one shape: a well-formed file of a wrong state."""
    one, two = rng.sample([leaf for leaf in record.leaves if leaf.path.startswith("params/layers")], 2)
    data = bytearray((folder / STATE).read_bytes())
    (a, size), (b, _) = one.spans[0], two.spans[0]
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    (folder / STATE).write_bytes(data)
    return STATE, {one.path, two.path}


def replace_state(folder: Path, record: Manifest, rng: random.Random) -> Damage:
    """Replace the state's file by that of another step: a well-formed file of a wrong state."""
    shutil.copy(folder.parent / "step-00000001" / STATE, folder / STATE)
    return STATE, {"step", "params/embedding", "params/layers/0/q", "metrics/loss"}


def flip_manifest(folder: Path, record: Manifest, rng: random.Random) -> Damage:
    """Flip one bit of the manifest, in a number, a name or white space."""
    return flip_bit(folder / MANIFEST, rng.randrange((folder / MANIFEST).stat().st_size), rng), set()


def truncate_manifest(folder: Path, record: Manifest, rng: random.Random) -> Damage:
    """Remove the end of the manifest, or all of it."""
    os.truncate(folder / MANIFEST, rng.randrange((folder / MANIFEST).stat().st_size))
    return MANIFEST, set()


def remove_manifest(folder: Path, record: Manifest, rng: random.Random) -> Damage:
    """Remove the manifest, or replace it by that of another step."""
    (folder / MANIFEST).unlink()
    if rng.random() < 0.5:
        shutil.copy(folder.parent / "step-00000001" / MANIFEST, folder / MANIFEST)
    return MANIFEST, set()


KINDS: Mapping[str, Callable[[Path, Manifest, random.Random], Damage]] = {
    "a bit of a leaf's data": flip_data,
    "a bit of a leaf's header": flip_header,
    "512 bytes of zeros": write_zeros,
    "the end cut off": truncate_state,
    "bytes after the end": append_bytes,
    "an empty file": empty_state,
    "no file": remove_state,
    "two leaves swapped": swap_leaves,
    "the file of another step": replace_state,
    "a bit of the manifest": flip_manifest,
    "a manifest cut off": truncate_manifest,
    "no manifest, or another's": remove_manifest,
}


if __name__ == "__main__":
    main()
