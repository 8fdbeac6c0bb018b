"""An optax optimizer in GRPO: any transformation of optax is an optimizer of every stage.

The model learns to write even tokens, three times from the same key: with our AdamW, with optax's AdamW
through `from_optax`, which gives the same rewards, and with optax's Adan, which this project does not have.

    python examples/16_an_optax_optimizer_in_grpo.py        (saves optax_in_grpo.png, if matplotlib is
    installed)
"""

import sys

import optax
import torch

from pure import optim, random
from pure.config import ModelConfig
from pure.generation.sampling import Sampling
from pure.interop.jax import from_optax
from pure.nn.transformer import transformer
from pure.types import GradientTransformation
from stages.grpo import grpo
from stages.rollout import Rollouts

NEW = 8


def share_of_even(rollouts: Rollouts) -> torch.Tensor:
    """Reward: the share of even tokens."""
    return (rollouts.tokens[:, -NEW:] % 2 == 0).float().mean(1, keepdim=True)


def main(steps: int = 25, picture: str = "optax_in_grpo.png") -> dict[str, list[float]]:
    """Trains three times; returns the mean reward of each step by optimizer."""
    ours = optim.adamw(3e-3, weight_decay=0.01)
    theirs = optax.adamw(3e-3, weight_decay=0.01)
    optimizers = {
        "adamw": ours,
        "optax.adamw": from_optax(theirs),
        "optax.adan": from_optax(optax.chain(optax.clip_by_global_norm(1.0), optax.adan(3e-3))),
    }
    rewards = {name: train(optimizer, steps) for name, optimizer in optimizers.items()}
    for name, values in rewards.items():
        print(
            f"{name:>12}:", " ".join(f"{x:.2f}" for x in values[:: max(1, steps // 8)]), f"{values[-1]:.2f}"
        )
    print(plot_rewards(rewards, picture))
    return rewards


def train(optimizer: GradientTransformation, steps: int) -> list[float]:
    """Runs GRPO; returns the mean reward of each step."""
    config = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformer(ModelConfig(vocab_size=32, num_hidden_layers=1, max_position_embeddings=32, **config))
    stage = grpo(model, optimizer, score=share_of_even, samples=16, sampling=Sampling(NEW), beta=0.0)
    batch = {"prompts": torch.tensor([[1, 2, 3]]), "lengths": torch.tensor([3]), "row": torch.tensor([0])}
    state, rewards = stage.init(random.key(0)), []
    for _ in range(steps):
        state = stage.step(state, batch)
        rewards.append(float(state.metrics["reward"]))
    return rewards


def plot_rewards(rewards: dict[str, list[float]], path: str) -> str:
    """Plots the rewards; returns the path, or the command that installs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    styles = ({"linewidth": 5, "alpha": 0.4}, {"linestyle": "--", "color": "black"}, {"color": "tab:red"})
    for (name, values), style in zip(rewards.items(), styles, strict=True):
        axes.plot(values, label=name, **style)
    axes.set(title="GRPO, three optimizers, one key", xlabel="step", ylabel="mean reward")
    axes.legend()
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
