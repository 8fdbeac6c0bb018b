"""The time of `pipe[i]`, B 8, T 256, beside the training step that consumes it. To reach: under 1% of the
step.

The peer stands for the step by less than it: the bare matrix products, forward and backward, in bfloat16, of
the model of 5.8M parameters (256 wide, 6 layers, 8 heads, 4 KV heads, 768, vocabulary 4096). No step can be
faster, so a batch that takes under 1% of them takes under 1% of any step: a ratio of 100 or more.

Usage: python benchmarks/pipe_index.py [--pairs N]
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from _timing import header, paired, parser, row

from data_pipes.pretrain import pretrain_pipe
from data_pipes.store import write_store
from data_pipes.table import TablePipe

B, T, VOCABULARY = 8, 256, 4096
TOKENS, DOCUMENT = 50_000_000, 1_000
LAYER = ((256, 256), (256, 128), (256, 128), (256, 256), (256, 768), (256, 768), (768, 256))
SHAPES = (*6 * LAYER, (256, VOCABULARY))


def documents() -> Iterator[np.ndarray]:
    """50M tokens (100 MB) in documents of a thousand."""
    for start in range(0, TOKENS, DOCUMENT):
        yield np.arange(start, start + DOCUMENT) * 7919 % VOCABULARY


def next_batch(pipe: TablePipe) -> Callable[[], object]:
    """Asks for another batch each time, far from the last: with shuffling every batch is everywhere in the
    file."""
    numbers = itertools.cycle(range(len(pipe)))
    return lambda: pipe[next(numbers)]


def products(device: str) -> Callable[[], object]:
    """Forward, gradient by the input and gradient by the weight, of every matrix of the model."""
    made = [
        [
            torch.randn(shape, device=device, dtype=torch.bfloat16)
            for shape in ((B * T, n), (m, n), (B * T, m))
        ]
        for n, m in SHAPES
    ]
    return lambda: [(x @ w.T, y @ w, y.T @ x) for x, w, y in made]


def main() -> None:
    """Prints the table."""
    arguments = parser(__doc__, pairs=100).parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    header()
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder) / "store", documents(), vocab_size=VOCABULARY)
        for boundaries in ("ignore", "mask"):
            pipe = pretrain_pipe(store, batch_size=B, length=T, key=0, epochs=3, boundaries=boundaries)
            result = paired(next_batch(pipe), products(device), pairs=arguments.pairs)
            row(f"pipe[i] ({boundaries}) against a step's products", result, reach=100.0)


if __name__ == "__main__":
    main()
