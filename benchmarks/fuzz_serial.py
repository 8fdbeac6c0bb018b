"""Fuzz `from_bytes`: each input must return a tree or raise SerialError, fast and in little memory.

python benchmarks/fuzz_serial.py [--inputs 100000]
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections.abc import Iterator
from typing import Any

import torch

from pure.serial.serial import SerialError, from_bytes, to_bytes

INTERESTING = bytes.fromhex("007f80818f9093a0c0c1c3c4c6c7c9d3d4d8d9dbdcdddedfe0ff")
"""First and last bytes of the ranges that msgpack assigns to its types."""


def main() -> None:
    """Print the number of refused inputs, the longest time and the most memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs to try (default 100000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (default 0)")
    options = parser.parse_args()
    target = example()
    refused, longest, largest = 0, 0.0, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in inputs(random.Random(options.seed), target, options.inputs):
        start = time.process_time()
        for template in (target, None):
            try:
                from_bytes(template, data)
            except SerialError:
                refused += 1
        longest, largest = max(longest, time.process_time() - start), max(largest, len(data))
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{options.inputs} inputs, each with a target and without; {refused} refused, every error ours")
    print(f"longest {longest * 1e3:.1f} ms; memory grew by {growth:.1f} MiB; largest input {largest} bytes")
    assert longest < 1.0, f"expected at most 1 s for an input, got {longest:.2f} s"
    assert growth < 64, f"expected memory to grow by at most 64 MiB, got {growth:.1f} MiB"


def example() -> Any:
    """Return a tree with every kind of node and leaf."""
    return {
        "params": {"layers": [{"w": torch.ones(3, 4), "b": torch.zeros(4).bfloat16()} for _ in range(2)]},
        "key": torch.tensor([0, 1], dtype=torch.uint32),
        "flags": (torch.tensor([True, False]), torch.tensor(True)),
        "python": [1, -5, 2**40, 0.5, 1 + 2j, "text", True, None],
        "empty": {"none": (), "zero": torch.zeros(0, 3)},
        "count": torch.tensor(3, dtype=torch.int32),
    }


def inputs(rng: random.Random, target: Any, count: int) -> Iterator[bytes]:
    """Yield `count` inputs: mutations of valid bytes (whole or in chunks), and one in ten of random bytes."""
    seeds = [to_bytes(target), to_bytes(target, chunk_bytes=8), to_bytes({"w": torch.ones(1000)})]
    for i in range(count):
        if i % 10 == 0:
            yield bytes(
                rng.choice(INTERESTING) if rng.random() < 0.7 else rng.randrange(256) for _ in range(60)
            )
            continue
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            mutate(data, rng)
        yield bytes(data)


def mutate(data: bytearray, rng: random.Random) -> None:
    """Mutate data in place: change a bit or a byte, cut, repeat, insert random bytes or a large number."""
    at, size = rng.randrange(len(data) + 1), rng.randint(1, 12)
    kind = rng.randrange(6)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = rng.choice(INTERESTING)
    elif kind == 2:
        del data[at : at + size]
    elif kind == 3:
        data[at:at] = data[rng.randrange(len(data) + 1) :][: size * 4]
    elif kind == 4:
        data[at : at + size] = rng.choice((b"\xff", b"\x7f", b"\x00")) * size
    else:
        data[at:at] = rng.randbytes(size)


if __name__ == "__main__":
    main()
