"""Saving and loading 500 MB of state: ours against the raw bytes.

Peer of save: write the raw bytes and fsync. Ours also computes a sha256 of each leaf, writes a manifest, and
renames. Peer of load: read the raw bytes and compute one sha256. Ours reads into tensors, and verifies each
leaf. Peer of verifying a model's folder by its SHA256SUMS: the same as that of load.

    python benchmarks/checkpoint_io.py [--pairs N] [--megabytes 500] [--folder DIR]
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _timing import Paired, Seconds, make_parser, print_header, print_row, time_call, time_pairs

from pure.serial.serial import to_bytes
from stages.checkpoint import checkpoint
from stages.models import checksums
from stages.state import TrainState

TARGET = 0.8


def main() -> None:
    """Print a line for saving, one for loading, and one for verifying a final_model."""
    parser = make_parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=500, help="size of the state (10^6 bytes)")
    parser.add_argument(
        "--folder", default=None, help="folder to write in (default: the system's temporary folder)"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        state = train_state(options.megabytes * 10**6)
        raw = to_bytes(state)
        size = len(raw) / 1e6
        print_header()
        ours, peer = (
            partial(checkpoint.save, folder / "ours", state),
            partial(write_raw, folder / "peer", raw),
        )
        print_row(
            f"save {size:.0f} MB",
            time_saves(ours, peer, folder, options.pairs),
            TARGET,
            items=size,
            unit="MB",
        )
        del raw
        ours, peer = partial(checkpoint.load, folder / "ours", state), partial(read_raw, folder / "peer")
        print_row(f"load {size:.0f} MB", time_pairs(ours, peer, options.pairs), TARGET, items=size, unit="MB")
        model = folder / "model"
        model.mkdir()
        weights = (folder / "peer").rename(model / "model.safetensors")
        checksums.write(model)
        ours, peer = partial(checksums.verify, model), partial(read_raw, weights)
        print_row(
            f"verify {size:.0f} MB", time_pairs(ours, peer, options.pairs), TARGET, items=size, unit="MB"
        )
    finally:
        shutil.rmtree(folder)


def time_saves(ours: Callable[[], Any], peer: Callable[[], Any], folder: Path, pairs: int) -> Paired:
    """Time pairs as `time_pairs` does, but remove a side's files before each of its calls, untimed."""
    times: dict[Callable[[], Any], list[float]] = {ours: [], peer: []}
    for i in range(2 * (pairs + 1)):
        side = (ours, peer, peer, ours)[i % 4]
        if side is ours:
            shutil.rmtree(folder / "ours", ignore_errors=True)
        else:
            (folder / "peer").unlink(missing_ok=True)
        times[side].append(time_call(side))
    mine, theirs = times[ours][1:], times[peer][1:]  # without the warm-up
    a, b = (Seconds(statistics.median(t), min(t), max(t)) for t in (mine, theirs))
    ratio = statistics.median(y / x for x, y in zip(mine, theirs, strict=True))
    return Paired(a, b, ratio, b.median / a.median, pairs)


def train_state(size: int) -> TrainState:
    """A training state of random bits: params, two moments, 12 layers of 7 leaves and a large embedding."""
    unit = size // 12 // (3 * 32)  # bytes of a 32nd of a layer, for each of params and two moments
    sizes = {"q": 2, "k": 1, "v": 1, "o": 2, "gate": 8, "up": 8, "down": 8}

    def params() -> dict:
        layers = [{name: random_bits(unit * n // 4) for name, n in sizes.items()} for _ in range(12)]
        return {
            "embedding": random_bits(size // 12 // 4 // 16 * 3),
            "layers": layers,
            "norm": random_bits(1024),
        }

    return TrainState(
        torch.tensor(1, dtype=torch.int32),
        torch.tensor([0, 1], dtype=torch.uint32),
        params(),
        ({"count": torch.tensor(1, dtype=torch.int32), "mu": params(), "nu": params()}, (), ()),
        {},
        {"loss": torch.tensor(2.5)},
    )


def random_bits(count: int) -> torch.Tensor:
    """[count] float32 of random bits, which a disk cannot compress."""
    return torch.randint(0, 2**31 - 1, (count,), dtype=torch.int32).view(torch.float32)


def write_raw(path: Path, raw: bytes) -> None:
    """Write the bytes and fsync: the peer of save."""
    with open(path, "wb", buffering=0) as file:
        rest = memoryview(raw)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def read_raw(path: Path) -> str:
    """Read the bytes and return their sha256: the peer of load."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.sha256(file.read()).hexdigest()


if __name__ == "__main__":
    main()
