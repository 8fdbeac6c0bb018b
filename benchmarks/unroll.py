"""Measure a meta-gradient, the derivative of a loss after 8 steps with respect to the learning rate.

    OMP_NUM_THREADS=1 python benchmarks/unroll.py

AdamW, 146k parameters, 4 rows of 32 tokens. Memory is the peak above rest in a process of its own, for 8 and 16
steps, and a step's share is an eighth of their difference. Time is the smallest of three CPU times, over that
of 8 plain steps.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from _timing import least_cpu_seconds, make_parser, peak_memory

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.transform.grad import grad
from stages.pretrain import pretrain
from stages.stage import Stage, loss_of
from stages.unroll import unroll

MODES = ("plain steps", "remat", "no remat", "forward mode")
MIB = 2**20


def main() -> None:
    """Print one line for each mode."""
    make_parser(__doc__, pairs=3).parse_args()
    print(f"{torch.get_num_threads()} thread, torch {torch.__version__}")
    print(f"{'mode':<14} {'8 steps':>9} {'16 steps':>9} {'a step':>9} {'CPU time':>10} {'ratio':>6}")
    seconds = least_cpu_seconds({mode: build(mode, 8) for mode in MODES}, 3)
    for mode in MODES:
        eight, sixteen = (peak_memory(build, mode, steps).above_rest / MIB for steps in (8, 16))
        memory = f"{eight:5.0f} MiB {sixteen:5.0f} MiB {(sixteen - eight) / 8:5.1f} MiB"
        print(
            f"{mode:<14} {memory} {seconds[mode]:8.2f} s {seconds[mode] / seconds[MODES[0]]:5.1f}x",
            flush=True,
        )


def build(mode: str, steps: int) -> Callable[[], Any]:
    """Return a function of no arguments that computes one mode."""
    config = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformer(
        ModelConfig(vocab_size=256, num_hidden_layers=3, max_position_embeddings=32, **config)
    )

    def make(rate: Any) -> Stage:
        return pretrain(model, optim.adamw(rate))

    tokens = random.randint(random.key(1), (steps + 1, 4, 33), 0, 256).long()
    *batches, held_out = ({"tokens": rows[:, :-1], "labels": rows[:, 1:]} for rows in tokens)
    held_out["batch_position"] = torch.arange(4)
    state, loss = make(1e-3).init(random.key(0)), loss_of(make(1e-3))
    unrolled = unroll(make, steps, remat=mode == "remat")

    def validate(rate: Tensor) -> Tensor:
        return loss(unrolled(state, batches, {"rate": rate}).params, held_out, None)[0]

    rate = torch.tensor(1e-3)
    if mode == "plain steps":
        return lambda: tree.leaves(functools.reduce(make(1e-3).step, batches, state))[0]
    if mode == "forward mode":
        return lambda: torch.func.jvp(validate, (rate,), (torch.ones(()),))[1]
    return lambda: grad(validate)(rate)


if __name__ == "__main__":
    main()
