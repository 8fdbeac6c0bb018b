"""Per-sample gradients: the cosines between rows, and the gradient noise scale of a batch.

`per_sample_grad` gives the gradient of every row of the batch in one pass. From them come the cosine between
any two rows, and the gradient noise scale tr(Σ)/|g|² (McCandlish et al., 2018), the batch size above which
more rows bring little. The squared norm of a mean of B gradients is too large, E|mean|² = |g|² + tr(Σ)/B, so
tr(Σ)/B is subtracted; if the result is not positive, the noise scale is infinite.

    python examples/04_per_sample_gradients.py
"""

import sys
from functools import partial

import torch

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.loss.cross_entropy import linear_cross_entropy
from pure.nn.transformer import transformer
from pure.transform.per_sample import per_sample_grad
from stages.pretrain import next_token_loss, pretrain


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

    head = partial(linear_cross_entropy, logits=model.logits)
    loss = partial(next_token_loss, model=model, head=head)
    grads = per_sample_grad(loss)(state.params, batch, random.key(2))
    # The loss is a sum over tokens; the gradients are those of the mean.
    flat = torch.cat([g.flatten(1) for g in tree.leaves(grads)], 1) / batch["labels"].shape[1]
    cosine = torch.nn.functional.cosine_similarity(flat[:, None], flat[None], dim=-1)
    print("rows 0-3 count, rows 4-7 are noise; cosines of their gradients:")
    for row in cosine.tolist():
        print(" ".join(f"{value:6.2f}" for value in row))
    trace = flat.var(0).sum()
    squared_norm = flat.mean(0).square().sum() - trace / len(flat)
    scale = float(trace / squared_norm) if squared_norm > 0 else float("inf")
    print(f"gradient noise scale: {scale:.1f} rows")
    return scale


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
