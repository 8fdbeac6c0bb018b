"""A torch loss inside a Flax training loop, by two ways across the border.

The loop, the module and the optimizer are Flax's and optax's. The loss is a function of torch: cross-entropy
with label smoothing and a z-loss. `torch_fn_in_jax` calls torch from within the compiled step; `lower` turns
the same function into JAX, so that nothing of torch runs. Both give the same gradients.

    python examples/19_a_torch_loss_in_flax.py        (saves torch_loss.png, if matplotlib is installed)
"""

import sys

import jax
import jax.numpy as jnp
import optax
import torch
from flax import nnx

from pure.interop.jax import lower, torch_fn_in_jax

VOCABULARY, WIDTH, LENGTH = 16, 32, 16


class Convolution(nnx.Module):
    """A causal convolution over three tokens: [B, T] -> logits [B, T, V]."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.mix = nnx.Conv(WIDTH, WIDTH, kernel_size=(3,), padding="CAUSAL", rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        return self.head(nnx.gelu(self.mix(self.embed(tokens))))


def torch_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with label smoothing 0.1, and a z-loss that keeps the logits' scale."""
    flat, labels = logits.flatten(0, 1), labels.flatten().long()
    cross_entropy = torch.nn.functional.cross_entropy(flat, labels, label_smoothing=0.1)
    return cross_entropy + 1e-3 * flat.logsumexp(-1).square().mean()


def main(steps: int = 150, picture: str = "torch_loss.png") -> float:
    """Trains once with each loss; returns the largest relative difference of the losses."""
    rows = (jnp.arange(LENGTH + 1) * jnp.array([[1], [2], [3], [5]]) + jnp.arange(4)[:, None]) % VOCABULARY
    called = train(torch_fn_in_jax(torch_loss), rows, steps)
    lowered = train(lower(torch_loss), rows, steps)
    difference = max(abs(a - b) / a for a, b in zip(called, lowered, strict=True))
    print("loss:", " ".join(f"{value:.3f}" for value in called[:: max(1, steps // 10)]), f"{called[-1]:.3f}")
    print(f"largest relative difference between torch called and torch lowered: {difference:.1e}")
    print(plot_losses(called, lowered, picture))
    return difference


def train(loss: object, rows: jax.Array, steps: int) -> list[float]:
    """A training loop as one writes it for Flax."""
    module = Convolution(nnx.Rngs(0))
    optimizer = nnx.Optimizer(module, optax.adamw(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(module, optimizer):
        value, grads = nnx.value_and_grad(lambda module: loss(module(rows[:, :-1]), rows[:, 1:]))(module)
        optimizer.update(module, grads)
        return value

    return [float(step(module, optimizer)) for _ in range(steps)]


def plot_losses(called: list[float], lowered: list[float], path: str) -> str:
    """Plots both losses and their difference; returns the path, or the command that installs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(called, linewidth=5, alpha=0.4, label="torch_fn_in_jax: torch is called")
    left.plot(lowered, linestyle="--", color="black", label="lower: torch became JAX")
    left.set(title="a torch loss in a Flax loop", xlabel="step", ylabel="loss")
    left.legend()
    right.plot([abs(a - b) / a for a, b in zip(called, lowered, strict=True)], ".")
    right.set(title="relative difference", xlabel="step", yscale="symlog", ylim=(0, None))
    right.set_yscale("symlog", linthresh=1e-8)
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
