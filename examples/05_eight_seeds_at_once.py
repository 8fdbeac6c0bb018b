"""Eight seeds trained at once: `population(stage, 8)` is again a stage, whose state has a leading axis.

One vmapped step trains all of them; the spread over seeds shows whether a difference is more than noise.

    python examples/05_eight_seeds_at_once.py
"""

import functools
import sys

import torch

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from stages.population import population
from stages.pretrain import pretrain


def main(steps: int = 60, members: int = 8) -> list[float]:
    """Trains all members on the same rows; returns their losses in nats a token."""
    model = transformer(
        ModelConfig(
            vocab_size=32,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
        )
    )
    rows = (torch.arange(17) * torch.arange(1, 9)[:, None]) % 32  # row i counts in steps of i + 1
    batch = {"tokens": rows[:, :-1], "labels": rows[:, 1:]}
    stage = pretrain(model, optim.adamw(3e-3))
    stacked = population(stage, members)

    state = functools.reduce(stacked.step, [batch] * steps, stacked.init(random.key(0)))

    losses = state.metrics["loss"].tolist()
    print(
        f"{members} seeds after {steps} steps: mean {state.metrics['loss'].mean():.4f}, "
        f"standard deviation {state.metrics['loss'].std():.4f} nats"
    )
    for number, loss in enumerate(losses):
        print(f"  seed {number}: {loss:.4f}")
    first_key = random.split(random.key(0), members)[0]
    alone = functools.reduce(stage.step, [batch] * steps, stage.init(first_key))
    member = tree.unstack(state)[0]
    difference = max(
        float((a - b).abs().max())
        for a, b in zip(tree.leaves(member.params), tree.leaves(alone.params), strict=True)
    )
    print(f"seed 0 trained alone differs by at most {difference:.1e} in any parameter")
    return losses


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
