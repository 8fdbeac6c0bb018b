"""Time eight models trained at once against eight runs in turn, in CPU seconds on one thread.

    OMP_NUM_THREADS=1 python benchmarks/population.py [--compile] [--pairs N]

Ours is one step of `population(stage, 8)` and of `sweep(make, values)` over eight learning rates; the peer is
a step of each of eight runs of the stage alone. Both sides alternate, and the figure is the ratio of the
smallest CPU times, which other work on the machine changes least. With --compile each side is compiled whole
(`jit(step, donate=True)`); compile seconds are those of this process and of its compilers.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from _timing import least_cpu_seconds, make_parser

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.transform.jit import jit
from pure.types import Tree
from stages.population import population
from stages.pretrain import pretrain
from stages.stage import Stage
from stages.sweep import sweep

MEMBERS = 8
RATES = torch.linspace(1e-4, 1e-3, MEMBERS)


class Size(NamedTuple):
    """A model and its batch."""

    width: int
    layers: int
    vocabulary: int
    rows: int
    length: int


SIZES = (Size(32, 2, 64, 8, 16), Size(64, 3, 256, 4, 32), Size(128, 3, 512, 4, 64))
COMPILED = SIZES[:2]


def main() -> int:
    """Print one line for each size and side.

    Returns:
        1 if members end elsewhere than the runs alone.
    """
    parser = make_parser(__doc__, pairs=8)
    parser.add_argument("--compile", action="store_true", help="compile both sides, of the two smaller sizes")
    options = parser.parse_args()
    print(
        f"{torch.get_num_threads()} thread, torch {torch.__version__}, CPU seconds, minima of {options.pairs}"
    )
    heads = ("parameters", "batch", "side", "at once", "in turn", "ratio", "apart")
    print("{:>10} {:>7} {:<24} {:>10} {:>10} {:>7} {:>8}".format(*heads))
    worst = 0.0
    for size in COMPILED if options.compile else SIZES:
        worst = max(worst, compare_size(size, options.pairs, options.compile))
    return int(worst > 1e-3)


def compare_size(size: Size, pairs: int, compiled: bool) -> float:
    """Print the lines of one size; return the largest relative distance of a member from its run alone."""
    config = ModelConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=5 * size.width // 2,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=size.length,
    )
    model = transformer(config)
    tokens = random.randint(random.key(1), (size.rows, size.length + 1), 0, size.vocabulary).long()
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:]}

    def make(rate: Any) -> Stage:
        return pretrain(model, optim.adamw(rate))

    alone = make(3e-4)
    sides = {"population": (population(alone, MEMBERS), alone)}
    if not compiled:
        sides["sweep of rates"] = sweep(make, {"rate": RATES}), make(RATES[-1])
    worst = 0.0
    for name, (together, last) in sides.items():
        in_turn, single_seconds = build(alone, batch, MEMBERS, compiled)
        at_once, seconds = build(together, batch, 1, compiled)
        least = least_cpu_seconds({"ours": at_once, "peer": in_turn}, pairs)
        ours, peer = least["ours"], least["peer"]
        apart = distance(together, last, batch)
        worst = max(worst, apart)
        label = f"{size.rows:>3}x{size.length:<3} {name}{', compiled' if compiled else ''}"
        times = f"{1e3 * ours:7.1f} ms {1e3 * peer:7.1f} ms {peer / ours:6.2f}x"
        print(f"{tree.count(model.spec):>10,} {label:<32} {times} {apart:8.0e}", flush=True)
        if compiled:
            print(
                f"{'':>18} compile seconds: {seconds:.0f} at once, {single_seconds:.0f} for one", flush=True
            )
    return worst


def build(stage: Stage, batch: Tree, runs: int, compiled: bool) -> tuple[Callable[[], None], float]:
    """Return a function that takes a step of each of `runs` states, and the CPU seconds of the first step."""
    step = jit(stage.step, donate=True) if compiled else stage.step
    states = [stage.init(random.key(i)) for i in range(runs)]
    start = cpu_seconds()
    states[0] = step(states[0], batch)
    seconds = cpu_seconds() - start

    def take_steps() -> None:
        for i, state in enumerate(states):
            states[i] = step(state, batch)

    take_steps()
    return take_steps, seconds


def distance(together: Stage, last_alone: Stage, batch: Tree) -> float:
    """Return how far the last member is from its run alone after two steps, relative to their way."""
    start = together.init(random.key(0))
    member = tree.unstack(together.step(together.step(start, batch), batch))[-1]
    first = tree.unstack(start)[-1]
    last = last_alone.step(last_alone.step(first, batch), batch)
    way = norm_of_difference(last.params, first.params)
    return float(norm_of_difference(member.params, last.params) / way)


def norm_of_difference(a: Tree, b: Tree) -> Tensor:
    """Return the norm of the difference of two trees."""
    return tree.norm(tree.map(lambda x, y: x - y, a, b))


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its finished children."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    raise SystemExit(main())
