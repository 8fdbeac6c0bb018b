"""A sweep of DPO's beta with error bars: four betas, four seeds each, trained at once as one run.

`sweep(make, values)` is again a stage. Its members start from the same reference model; each seed has pairs
of its own, a fifth of them with the two answers exchanged by mistake. A small beta lets the policy move away
from the reference: it ranks more of the held-out pairs right, at a larger divergence.

    python examples/24_sweep_beta.py        (saves sweep_beta.png, if matplotlib is installed)
"""

import functools
import sys

import torch
from torch import Tensor

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.loss.kl import exact_kl
from pure.nn.transformer import transformer
from pure.types import Model, Tree
from stages.dpo import dpo
from stages.population import map_members
from stages.selection import error_bars
from stages.sft import sft
from stages.sweep import grid, sweep

BETAS, SEEDS, N, PAIRS = (0.02, 0.1, 0.5, 2.0), 4, 16, 32


def answers(prompts: Tensor, which: int | Tensor) -> Tree:
    """Rows "a b answer", the answer being the first (0) or second (1) token; labels on the answer only."""
    choice = torch.as_tensor(which).expand(len(prompts))[:, None]
    rows = torch.cat([prompts, prompts.gather(1, choice)], 1)
    return {"tokens": rows[:, :-1], "labels": torch.where(torch.arange(2) == 1, rows[:, 1:], -100)}


def pairs(prompts: Tensor, flipped: Tensor) -> Tree:
    """Preference pairs: the first token is preferred to the second, except where flipped [B] bool."""
    sides = {"chosen": answers(prompts, flipped.long()), "rejected": answers(prompts, 1 - flipped.long())}
    return {f"{side}_{name}": x for side, rows in sides.items() for name, x in rows.items()}


def train_reference(model: Model, prompts: Tensor, steps: int) -> Tree:
    """Fine-tune a model that gives either answer."""
    stage = sft(model, optim.adamw(5e-3))
    batch = tree.map(lambda x, y: torch.cat([x, y]), answers(prompts, 0), answers(prompts, 1))
    return functools.reduce(stage.step, [batch] * steps, stage.init(random.key(0))).params


def main(steps: int = 60, picture: str = "sweep_beta.png") -> list[float]:
    """Trains all members; prints and plots accuracy and divergence; returns each beta's mean accuracy."""
    config = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformer(ModelConfig(vocab_size=N, num_hidden_layers=2, max_position_embeddings=8, **config))
    prompts = torch.cartesian_prod(torch.arange(N), torch.arange(N))
    prompts = prompts[prompts[:, 0] != prompts[:, 1]]
    order = random.permutation(random.key(1), len(prompts))
    training, held_out = prompts[order[:-64]], prompts[order[-64:]]
    reference = train_reference(model, training, 4 * steps)

    values = grid(beta=BETAS, seed=range(SEEDS))
    stage = sweep(
        lambda beta: dpo(model, optim.adamw(1e-3), reference=reference, beta=beta),
        {"beta": values["beta"]},
        seeds=values["seed"],
        shared_batch=False,
    )
    state = stage.init(random.key(2), reference)
    for step in range(steps):
        state = stage.step(state, tree.stack([noisy_pairs(training, int(s), step) for s in values["seed"]]))

    clean = pairs(held_out, torch.zeros(len(held_out), dtype=torch.bool))
    measured = stage.step(state, tree.stack([clean] * len(values["seed"]))).metrics  # those before the update
    accuracy = error_bars(measured["rewards/accuracies"].view(len(BETAS), SEEDS))
    logits = model.forward(reference, held_out)[:, -1]
    kl = map_members(
        lambda params: exact_kl(model.forward(params, held_out)[:, -1], logits).mean(), state.params
    )
    divergence = error_bars(kl.view(len(BETAS), SEEDS))
    for i, beta in enumerate(BETAS):
        print(
            f"beta {beta:4}: accuracy {accuracy.mean[i]:.3f} ± {accuracy.error[i]:.3f}, "
            f"divergence {divergence.mean[i]:.3f} ± {divergence.error[i]:.3f} nats"
        )
    print(plot_betas(measured["rewards/accuracies"], kl, picture))
    return accuracy.mean.tolist()


def noisy_pairs(prompts: Tensor, seed: int, step: int) -> Tree:
    """A seed's pairs of one step, a fifth of them flipped."""
    key = random.fold_in(random.key(seed), step)
    rows = random.randint(key, (PAIRS,), 0, len(prompts)).long()
    flipped = random.uniform(random.fold_in(random.key(seed), 10**6), (len(prompts),)) < 0.2
    return pairs(prompts[rows], flipped[rows])


def plot_betas(accuracy: Tensor, kl: Tensor, path: str) -> str:
    """Plots both over beta: every member, mean and standard error; returns the path, or what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axis, members, label in zip(
        figure.subplots(1, 2),
        (accuracy, kl),
        ("held-out accuracy", "KL from the reference, nats"),
        strict=True,
    ):
        table = members.view(len(BETAS), SEEDS)
        bars = error_bars(table)
        for seed in table.unbind(1):
            axis.plot(BETAS, seed.tolist(), "o", color="tab:gray", alpha=0.4, markersize=4)
        axis.errorbar(BETAS, bars.mean.tolist(), bars.error.tolist(), fmt="-o", capsize=4, color="tab:blue")
        axis.set(xscale="log", xlabel="beta", ylabel=label)
        axis.grid(alpha=0.3)
    figure.suptitle(f"DPO with a fifth of the pairs exchanged: mean ± standard error of {SEEDS} seeds")
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
