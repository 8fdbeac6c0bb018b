"""Fuzz `from_bytes`: each input must give a tree or our error, fast and in little memory.

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
"""Bytes at which msgpack changes the type of an object."""


def main() -> None:
    """Print the number of refused inputs, the longest time and the most memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs to try (default 100000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    target = example()
    refused, longest, largest = 0, 0.0, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in inputs(random.Random(options.seed), target, options.inputs):
        start = time.process_time()
        for to in (target, None):
            try:
                from_bytes(to, data)
            except SerialError:
                refused += 1
        longest, largest = max(longest, time.process_time() - start), max(largest, len(data))
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{options.inputs} inputs, each with a target and without; {refused} refused, every error ours")
    print(f"longest {longest * 1e3:.1f} ms; memory grew by {more:.1f} MiB; largest input {largest} bytes")
    assert longest < 1.0, longest
    assert more < 64, more


def example() -> Any:
    """A tree with every kind of node and leaf."""
    return {
        "params": {"layers": [{"w": torch.ones(3, 4), "b": torch.zeros(4).bfloat16()} for _ in range(2)]},
        "key": torch.tensor([0, 1], dtype=torch.uint32),
        "flags": (torch.tensor([True, False]), torch.tensor(True)),
        "python": [1, -5, 2**40, 0.5, 1 + 2j, "text", True, None],
        "empty": {"none": (), "zero": torch.zeros(0, 3)},
        "count": torch.tensor(3, dtype=torch.int32),
    }


def inputs(draw: random.Random, target: Any, count: int) -> Iterator[bytes]:
    """Mutations of valid bytes (whole and in chunks), and for one input in ten random bytes."""
    seeds = [to_bytes(target), to_bytes(target, chunk_bytes=8), to_bytes({"w": torch.ones(1000)})]
    for i in range(count):
        if i % 10 == 0:
            yield bytes(
                draw.choice(INTERESTING) if draw.random() < 0.7 else draw.randrange(256) for _ in range(60)
            )
            continue
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(1, 4)):
            mutate(data, draw)
        yield bytes(data)


def mutate(data: bytearray, draw: random.Random) -> None:
    """Change a bit or a byte, cut, repeat, or insert a large number or random bytes."""
    at, size = draw.randrange(len(data) + 1), draw.randint(1, 12)
    kind = draw.randrange(6)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << draw.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = draw.choice(INTERESTING)
    elif kind == 2:
        del data[at : at + size]
    elif kind == 3:
        data[at:at] = data[draw.randrange(len(data) + 1) :][: size * 4]
    elif kind == 4:
        data[at : at + size] = draw.choice((b"\xff", b"\x7f", b"\x00")) * size
    else:
        data[at:at] = draw.randbytes(size)


if __name__ == "__main__":
    main()
