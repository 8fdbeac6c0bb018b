"""Write your own loss, optimizer and training loop, from the same parts as the built-in stages.

The loss adds a penalty on confident predictions (Pereyra et al., 2017) to the cross-entropy; the optimizer is
ten lines of SGD with momentum and gradient noise, in optax's protocol. `stage` builds a stage from the two,
with accumulation, skipping of bad batches and metrics; the same step follows, written out by hand.

    python examples/03_your_own_loop.py
"""

import sys
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.loss.cross_entropy import cross_entropy
from pure.nn.transformer import transformer
from pure.transform.grad import value_and_grad
from pure.types import GradientTransformation, Model, Tree
from stages.stage import stage


class NoisyState(NamedTuple):
    """State of the optimizer: the number of updates, and the momentum."""

    count: Tensor
    velocity: Tree


def noisy_sgd(rate: float, momentum: float, noise: float, seed: int) -> GradientTransformation:
    """SGD with momentum, and noise that fades as 1/√t."""

    def init(params: Tree) -> NoisyState:
        return NoisyState(torch.zeros((), dtype=torch.int32), tree.zeros_like(params))

    def update(
        grads: Tree, state: NoisyState, params: Tree | None = None, **extra: Tensor
    ) -> tuple[Tree, NoisyState]:
        count = state.count + 1
        leaves, spec = tree.flatten(grads)
        keys = random.split(random.fold_in(random.key(seed), count), len(leaves))
        scale = noise / count.sqrt()
        noisy = [g + scale * random.normal(key, g.shape) for g, key in zip(leaves, keys, strict=True)]
        velocity = tree.map(lambda v, g: momentum * v + g, state.velocity, tree.unflatten(spec, noisy))
        return tree.map(lambda v: -rate * v, velocity), NoisyState(count, velocity)

    return GradientTransformation(init, update)


def loss(params: Tree, batch: Tree, key: Tensor, *, model: Model) -> tuple[Tensor, Tensor, dict]:
    """Cross-entropy minus 0.1 times the entropy of the predictions, as (sum, count): the stage divides.

    Packed rows have segment ids and positions, labels of -100 are not trained on, and rows may have weights.
    """
    where = {name: batch.get(name) for name in ("segment_ids", "positions")}
    logits = model.forward(params, batch["tokens"], key=key, **where)
    weights = (batch["labels"] != -100).float()
    if "weights" in batch:
        weights = weights * batch["weights"][:, None]
    total, count = cross_entropy(logits, batch["labels"], weights)
    entropies = torch.distributions.Categorical(logits=logits, validate_args=False).entropy()
    entropy = (weights * entropies).sum()
    return total - 0.1 * entropy, count, {"entropy": (entropy, count)}


def main(steps: int = 40) -> tuple[float, float]:
    """Trains twice, by `stage` and by hand; returns the last loss of each."""
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
    optimizer, loss_fn = noisy_sgd(0.1, 0.9, 1e-3, seed=7), partial(loss, model=model)
    tokens = random.randint(random.key(1), (4, 17), 0, 32).long()
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:]}

    noisy_stage = stage(loss_fn, optimizer, init=model.init, metrics=("entropy",))
    state = noisy_stage.init(random.key(0))
    for step in range(1, steps + 1):
        state = noisy_stage.step(state, batch)
        if step % 10 == 0:
            print(
                f"step {step}: loss {state.metrics['loss']:.4f}, entropy {state.metrics['entropy']:.3f} nats"
            )

    params = noisy_stage.init(random.key(0)).params
    opt_state = optimizer.init(params)
    value = torch.tensor(0.0)

    def mean_loss(params: Tree) -> Tensor:
        total, count, _ = loss_fn(params, batch, None)
        return total / count

    for _ in range(steps):
        value, grads = value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = tree.map(torch.add, params, updates)
    print(f"by hand: loss {value:.4f}")
    return float(state.metrics["loss"]), float(value)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
