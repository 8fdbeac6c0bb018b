"""Per-sample gradients: losses of the rows, cosines between their gradients, and the gradient noise scale.

`per_sample_grad` gives the loss and the gradient of every row of the batch in one pass. From them come the
cosine between any two rows, and the gradient noise scale tr(Σ)/|g|² (McCandlish et al., 2018), the batch size
above which more rows bring little. The squared norm of a mean of B gradients is too large, E|mean|² = |g|² +
tr(Σ)/B, so tr(Σ)/B is subtracted; if the result is not positive, the noise scale is infinite.

A gradient has as many numbers as the model. `projected` computes random projections of 1024 numbers, two rows
at a time, with nearly the same cosines: many rows can be compared, or their projections stored.

    python examples/04_per_sample_gradients.py
"""

import sys

import torch
from torch import Tensor

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.transform.per_sample import per_sample_grad
from pure.transform.sketch import projected
from stages.pretrain import pretrain
from stages.stage import loss_of


def cosines(rows: Tensor) -> Tensor:
    """Returns the cosine between any two rows, [B, B]."""
    return torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)


def main(steps: int = 60) -> float:
    """Trains on two kinds of rows, prints the cosines of their gradients, returns the noise scale."""
    model = transformer(
        ModelConfig(
            vocab_size=16,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
        )
    )
    counting = (torch.arange(17) + torch.arange(4)[:, None]) % 16
    noise = random.randint(random.key(1), (4, 17), 0, 16).long()
    rows = torch.cat([counting, noise])
    batch = {"tokens": rows[:, :-1], "labels": rows[:, 1:], "batch_position": torch.arange(len(rows))}
    stage = pretrain(model, optim.adamw(3e-3))
    state = stage.init(random.key(0))
    for _ in range(steps):
        state = stage.step(state, batch)

    loss, key = loss_of(stage), random.key(2)
    losses, grads = per_sample_grad(loss, value=True)(state.params, batch, key)
    # The loss is a sum over tokens; the gradients are those of the mean.
    tokens = batch["labels"].shape[1]
    flat = torch.cat([g.flatten(1) for g in tree.leaves(grads)], 1) / tokens
    print("rows 0-3 count, rows 4-7 are noise; loss of a token, and cosines of the gradients:")
    for value, row in zip((losses / tokens).tolist(), cosines(flat).tolist(), strict=True):
        print(f"{value:6.2f}  |", " ".join(f"{cosine:6.2f}" for cosine in row))
    sketches = projected(loss, random.key(3), 1024, chunk=2)(state.params, batch, key)
    apart = float((cosines(sketches) - cosines(flat)).abs().max())
    print(f"cosines of projections from {flat.shape[1]} to 1024 numbers are at most {apart:.2f} apart")
    trace = flat.var(0).sum()
    squared_norm = flat.mean(0).square().sum() - trace / len(flat)
    scale = float(trace / squared_norm) if squared_norm > 0 else float("inf")
    print(f"gradient noise scale: {scale:.1f} rows")
    return scale


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
