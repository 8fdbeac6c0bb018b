"""A Flax model through SFT: any linen or nnx module becomes a Model in one call.

The model is computed by JAX; the stage, the optimizer and the gradient of each row are ours. Half of the rows
count upwards, half are noise, new in each step. After training, rows that count have small gradients, and
noise large ones.

    python examples/17_a_flax_model.py        (saves flax_model.png, if matplotlib is installed)
"""

import sys
from functools import partial

import torch
from flax import linen

from pure import optim, random, tree
from pure.interop.jax import from_flax
from pure.loss.cross_entropy import linear_cross_entropy
from pure.transform.per_sample import per_sample_grad
from stages.pretrain import next_token_loss
from stages.sft import sft

VOCABULARY, WIDTH, LENGTH = 16, 32, 16


class FlaxModel(linen.Module):
    """One layer of attention with learned positions, written as for Flax alone."""

    @linen.compact
    def __call__(self, tokens, deterministic=True):
        x = linen.Embed(VOCABULARY, WIDTH)(tokens)
        x = x + self.param("positions", linen.initializers.normal(0.02), (LENGTH, WIDTH))[: tokens.shape[1]]
        attention = linen.MultiHeadDotProductAttention(4, deterministic=deterministic)
        x = x + attention(linen.LayerNorm()(x), mask=linen.make_causal_mask(tokens))
        return linen.Dense(VOCABULARY, use_bias=False)(linen.LayerNorm()(x))


def main(steps: int = 80, picture: str = "flax_model.png") -> tuple[float, float]:
    """Trains, compares the rows' gradients; returns the loss of the first and of the last step."""
    model = from_flax(FlaxModel(), vocab_size=VOCABULARY, max_length=LENGTH)
    stage = sft(model, optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(3e-3)))
    state = stage.init(random.key(0))  # initialised by Flax, from our key
    print(
        f"{sum(x.numel() for x in tree.leaves(state.params)):,} parameters, such as "
        f"{tree.paths(state.params)[0]}"
    )
    losses = []
    for _ in range(steps):
        state = stage.step(state, make_batch(int(state.step)))
        losses.append(float(state.metrics["loss"]))
    print("loss:", " ".join(f"{value:.2f}" for value in losses[:: max(1, steps // 10)]), f"{losses[-1]:.2f}")

    loss = partial(next_token_loss, model=model, head=partial(linear_cross_entropy, logits=model.logits))
    grads = per_sample_grad(loss)(state.params, make_batch(steps), random.key(2))
    flat = torch.cat([g.flatten(1) for g in tree.leaves(grads)], 1)
    cosine = torch.nn.functional.cosine_similarity(flat[:, None], flat[None], dim=-1)
    for name, part in (("counting", slice(0, 4)), ("noise", slice(4, 8))):
        print(f"{name}: norms of the rows' gradients", " ".join(f"{x:.1f}" for x in flat[part].norm(dim=1)))
    print(plot_training(losses, flat.norm(dim=1), cosine, picture))
    return losses[0], losses[-1]


def make_batch(step: int) -> dict[str, torch.Tensor]:
    """Four rows that count and four of noise."""
    counting = (torch.arange(LENGTH + 1) + torch.arange(4)[:, None]) % VOCABULARY
    noise = random.randint(random.fold_in(random.key(1), step), (4, LENGTH + 1), 0, VOCABULARY).long()
    rows = torch.cat([counting, noise])
    return {"tokens": rows[:, :-1], "labels": rows[:, 1:], "batch_position": torch.arange(len(rows))}


def plot_training(losses: list[float], norms: torch.Tensor, cosine: torch.Tensor, path: str) -> str:
    """Plots loss, norms and cosines; returns the path, or the command that installs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.plot(losses)
    left.set(title="SFT of a Flax module", xlabel="step", ylabel="loss, nats per token", ylim=(0, None))
    middle.bar(range(8), norms.tolist(), color=["tab:green"] * 4 + ["tab:red"] * 4)
    middle.set(title="norm of each row's gradient", xlabel="row (green: counting, red: noise)")
    image = right.imshow(cosine.numpy(), vmin=-1, vmax=1, cmap="RdBu")
    right.set(title="cosines of the rows' gradients")
    figure.colorbar(image, ax=right)
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
