"""Gradients of a GRPO group: that of every completion, of which a step only shows the sum.

The gradients of a group's completions have different directions, and partly cancel in the sum. This prints
the norm of each, the cosine of every two, and the norm of the sum as a share of the sum of the norms.

    python examples/10_group_microscope.py        (saves group_microscope.png, if matplotlib is installed)
"""

import sys

import torch

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.generation.sampling import Sampling
from pure.loss.advantages import group_advantages
from pure.nn.transformer import transformer
from pure.transform.per_sample import per_sample_grad
from stages.grpo import grpo
from stages.online import generate_and_score
from stages.rollout import Rollouts

GROUP, NEW = 8, 12


def share_of_even(rollouts: Rollouts) -> torch.Tensor:
    """Reward: the share of even tokens."""
    return (rollouts.tokens[:, -NEW:] % 2 == 0).float().mean(1, keepdim=True)


def main(steps: int = 5, picture: str = "group_microscope.png") -> float:
    """Trains, prints the gradients of one group, returns the norm of their sum over the sum of norms."""
    config = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformer(ModelConfig(vocab_size=32, num_hidden_layers=2, max_position_embeddings=64, **config))
    sampling = Sampling(max_new_tokens=NEW)
    stage = grpo(model, optim.adamw(1e-3), score=share_of_even, samples=GROUP, sampling=sampling)
    state = stage.init(random.key(0))
    batch = {"prompts": torch.tensor([[1, 2, 3]]), "lengths": torch.tensor([3]), "row": torch.tensor([0])}
    for _ in range(steps):
        state = stage.step(state, batch)

    rollouts, rewards = generate_and_score(state, batch, parts=stage.parts)
    advantages = group_advantages(rewards.T)[0]
    # Groups of one.
    singles = tree.map(lambda x: x[:, None], {**rollouts._asdict(), "advantages": advantages})
    grads = per_sample_grad(stage.loss)(state.params, singles, state.key)
    flat = torch.cat([g.flatten(1) for g in tree.leaves(grads)], 1)
    cosine = torch.nn.functional.cosine_similarity(flat[:, None], flat[None], dim=-1)
    for i, row in enumerate(cosine.tolist()):
        numbers = " ".join(f"{value:5.2f}" for value in row)
        print(
            f"reward {rewards[i, 0]:.2f}  advantage {advantages[i]:5.2f}  norm {flat[i].norm():7.2f}  "
            f"cosines {numbers}"
        )
    share = float(flat.sum(0).norm() / flat.norm(dim=1).sum().clamp(min=1e-12))
    print(f"the summed gradient has {share:.0%} of the sum of the norms; the rest cancels")
    print(plot_group(flat.norm(dim=1), cosine, advantages, picture))
    return share


def plot_group(norms: torch.Tensor, cosine: torch.Tensor, advantages: torch.Tensor, path: str) -> str:
    """Plots norms next to cosines; returns the path, or the command that installs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = ["tab:green" if a > 0 else "tab:red" for a in advantages.tolist()]
    left.bar(range(len(norms)), norms.tolist(), color=colours)
    left.set(title="norm of each completion's gradient", xlabel="completion (green: better than the group)")
    image = right.imshow(cosine.numpy(), vmin=-1, vmax=1, cmap="RdBu")
    right.set(title="cosines")
    figure.colorbar(image, ax=right)
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
