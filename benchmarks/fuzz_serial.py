"""Feeds mutated and random bytes to `from_bytes`: each must give a tree or our error, in little time and
memory.

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

INTERESTING = (
    0x00,
    0x7F,
    0x80,
    0x81,
    0x8F,
    0x90,
    0x93,
    0xA0,
    0xC0,
    0xC1,
    0xC3,
    0xC4,
    0xC6,
    0xC7,
    0xC9,
    0xD3,
    0xD4,
)
INTERESTING += (0xD8, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xE0, 0xFF)


def main() -> None:
    """Prints what came of the inputs, the longest time and the most memory."""
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
    print(
        f"longest {longest * 1e3:.1f} ms; memory grew by {more:.1f} MiB; the largest input had {largest} bytes"
    )
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
    """Mutations of real bytes (whole and in chunks), and now and then bytes at random."""
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
    """Changes a bit or a byte, cuts, repeats, or puts a large number in."""
    place, size = draw.randrange(len(data) + 1), draw.randint(1, 12)
    kind = draw.randrange(6)
    if kind == 0 and place < len(data):
        data[place] ^= 1 << draw.randrange(8)
    elif kind == 1 and place < len(data):
        data[place] = draw.choice(INTERESTING)
    elif kind == 2:
        del data[place : place + size]
    elif kind == 3:
        data[place:place] = data[draw.randrange(len(data) + 1) :][: size * 4]
    elif kind == 4:
        data[place : place + size] = draw.choice((b"\xff", b"\x7f", b"\x00")) * size
    else:
        data[place:place] = draw.randbytes(size)


if __name__ == "__main__":
    main()
