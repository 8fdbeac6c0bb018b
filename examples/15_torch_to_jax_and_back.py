"""One loss curve: begun in torch with torch.optim, continued in JAX with optax, ended in torch.

The model and the loss are written once, in torch. `lower` makes a JAX function of the loss, which `jax.grad`
differentiates; params, moments and counts go over the border and back. Beside it runs torch alone, without a
stop: the curves differ by rounding only.

    pip install 'intro2llm[jax,plot]'
    python examples/15_torch_to_jax_and_back.py      (saves torch_to_jax_and_back.png)
"""

import sys
from typing import Any, NamedTuple

import jax
import optax
import torch
from torch import Tensor

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.interop.jax import lower, state_from_optax, state_to_optax, to_jax, to_torch
from pure.interop.torch_optim import state_from_torch_optim, state_to_torch_optim
from pure.loss.cross_entropy import cross_entropy
from pure.nn.transformer import transformer
from pure.types import Tree

RATE, DECAY, BETAS = 2e-3, 0.1, (0.9, 0.95)
MODEL = transformer(
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
OURS = optim.adamw(RATE, *BETAS, weight_decay=DECAY)
THEIRS = optax.adamw(RATE, *BETAS, weight_decay=DECAY)


class Run(NamedTuple):
    """A run between two steps: what crosses the border."""

    params: Tree
    opt_state: Tree


def get_batch(step: int) -> Tree:
    """Twelve of 24 rows; row i counts in steps of i + 1."""
    rows = (torch.arange(17) * torch.arange(1, 25)[:, None]) % 32
    chosen = rows[random.permutation(random.fold_in(random.key(1), step), 24)[:12]]
    return {"tokens": chosen[:, :-1], "labels": chosen[:, 1:]}


def loss(params: Tree, batch: Tree) -> Tensor:
    """Cross-entropy in nats a token."""
    total, count = cross_entropy(MODEL.forward(params, batch["tokens"]), batch["labels"])
    return total / count


def train_in_torch(run: Run, steps: range) -> tuple[Run, list[float]]:
    """Trains as torch users do: backward, and torch.optim.AdamW, which writes into its parameters."""
    params = tree.map(lambda p: p.clone().requires_grad_(), run.params)
    names = [path.replace("/", ".") for path in tree.paths(params)]
    named = list(zip(names, tree.leaves(params), strict=True))
    optimizer = torch.optim.AdamW(named, lr=RATE, betas=BETAS, weight_decay=DECAY)
    optimizer.load_state_dict(state_to_torch_optim(run.opt_state, optimizer))
    losses = []
    for step in steps:
        optimizer.zero_grad()
        value = loss(params, get_batch(step))
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return Run(tree.detach(params), state_from_torch_optim(optimizer, run.opt_state)), losses


def train_in_jax(run: Run, steps: range) -> tuple[Run, list[float]]:
    """Trains as JAX users do: jax.jit of jax.value_and_grad, and optax.adamw."""
    lowered = lower(loss)

    @jax.jit
    def update(params: Any, opt_state: Any, batch: Any) -> tuple[Any, Any, Any]:
        value, grads = jax.value_and_grad(lowered)(params, batch)
        updates, opt_state = THEIRS.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    params = to_jax(run.params)
    opt_state = state_to_optax(run.opt_state, THEIRS.init(params))
    losses = []
    for step in steps:
        params, opt_state, value = update(params, opt_state, to_jax(narrow(get_batch(step))))
        losses.append(float(value))
    return Run(to_torch(params), state_from_optax(opt_state, run.opt_state)), losses


def narrow(batch: Tree) -> Tree:
    """Tokens as int32, as JAX has no int64 by default."""
    return tree.map(lambda x: x.to(torch.int32), batch)


def main(steps: int = 40, picture: str = "torch_to_jax_and_back.png") -> float:
    """Trains in three parts and in one; returns the largest relative difference of the loss."""
    params = MODEL.init(random.key(0))
    run = Run(params, OURS.init(params))
    _, alone = train_in_torch(run, range(3 * steps))
    curve: list[float] = []
    for i, train in enumerate((train_in_torch, train_in_jax, train_in_torch)):
        run, losses = train(run, range(i * steps, (i + 1) * steps))
        curve += losses
        print(
            f"{train.__name__:>14} {len(curve) - steps:4} steps in  loss {losses[0]:.4f} to {losses[-1]:.4f}"
        )
    difference = [abs(a - b) / b for a, b in zip(curve, alone, strict=True)]
    print(f"the largest relative difference from torch alone is {max(difference):.1e}")
    print(plot_curves(curve, difference, steps, picture))
    return max(difference)


def plot_curves(curve: list[float], difference: list[float], steps: int, path: str) -> str:
    """Plots the curve over its difference; returns the path, or the command that installs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    figure = Figure(figsize=(8, 5), layout="constrained")
    upper, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    shown = [max(x, 1e-9) for x in difference]  # a difference of 0 has no logarithm
    parts = (("torch.optim", "tab:orange"), ("JAX and optax", "tab:blue"), ("", "tab:orange"))
    for i, (name, colour) in enumerate(parts):
        start, stop = i * steps, (i + 1) * steps
        begin = max(start - 1, 0)  # joined to the part before
        upper.plot(range(begin, stop), curve[begin:stop], color=colour, label=name or None)
        below.semilogy(range(start, stop), shown[start:stop], ".", color=colour)
    upper.set(ylabel="loss, nats a token", title="one run: torch, JAX, torch")
    upper.legend()
    below.set(xlabel="step", ylabel="relative difference\nfrom torch alone", ylim=(5e-10, 1e-4))
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
