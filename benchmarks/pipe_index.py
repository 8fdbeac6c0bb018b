"""Time of `pipe[i]` against the training step that consumes it.

B is 8, T is 256; the target is at most 1% of the step. The peer is a lower bound of the step: only its matrix
products, forward and backward, in bfloat16, of the model of 5.8M parameters (`benchmarks/_model.py`). No step
is faster than its products, so a batch that takes at most 1% of their time (a ratio of 100 or more) takes at
most 1% of any step.

    python benchmarks/pipe_index.py [--pairs N]
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from _timing import make_parser, print_header, print_row, time_pairs

from data_pipes.pretrain import pretrain_pipe
from data_pipes.store import write_store
from data_pipes.table import TablePipe

B, T, VOCABULARY = 8, 256, 4096
TOKENS, DOCUMENT = 50_000_000, 1_000
LAYER = ((256, 256), (256, 128), (256, 128), (256, 256), (256, 768), (256, 768), (768, 256))
SHAPES = (*6 * LAYER, (256, VOCABULARY))


def documents() -> Iterator[np.ndarray]:
    """Yield 50M tokens (100 MB) in documents of a thousand."""
    for start in range(0, TOKENS, DOCUMENT):
        yield np.arange(start, start + DOCUMENT) * 7919 % VOCABULARY


def next_batch(pipe: TablePipe) -> Callable[[], object]:
    """Return a function that reads the next batch; shuffling spreads its rows over the whole file."""
    indices = itertools.cycle(range(len(pipe)))
    return lambda: pipe[next(indices)]


def products(device: str) -> Callable[[], object]:
    """Return a function that computes, for each matrix, the forward product and those of both gradients."""
    matrices = []
    for n, m in SHAPES:
        shapes = ((B * T, n), (m, n), (B * T, m))
        matrices.append([torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in shapes])
    return lambda: [(x @ w.T, y @ w, y.T @ x) for x, w, y in matrices]


def main() -> None:
    """Print the table."""
    arguments = make_parser(__doc__, pairs=100).parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print_header()
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder) / "store", documents(), vocab_size=VOCABULARY)
        for boundaries in ("ignore", "mask"):
            pipe = pretrain_pipe(store, batch_size=B, length=T, key=0, epochs=3, boundaries=boundaries)
            result = time_pairs(next_batch(pipe), products(device), pairs=arguments.pairs)
            print_row(f"pipe[i] ({boundaries}) against a step's products", result, target=100.0)


if __name__ == "__main__":
    main()
