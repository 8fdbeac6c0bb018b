"""Influence of training rows: three estimates, and the truth by training again without each row.

A model that counts in steps of 1, 2 and 3 is fine-tuned by LoRA on 36 lines: steps of 4, of 5 and of 1, four
of them noise. The truth: 36 more runs, each without one row, trained at once by one vmapped step, in which
every row has a weight. The estimates need one run: the derivative through all of its optimizer steps with
respect to the weights, influence functions with a damped Gauss-Newton matrix, and TracIn, the inner product
of two gradients.

    python examples/21_influence.py        (saves influence.png, if matplotlib is installed)
"""

import sys

import torch
from torch import Tensor

from pure import optim, random, tree
from pure.adapt.lora import lora
from pure.config import ModelConfig
from pure.loss.cross_entropy import cross_entropy
from pure.nn.transformer import transformer
from pure.transform.curvature import gauss_newton_product
from stages.influence import influence, inverse_product, rank_rows, through_steps
from stages.population import population
from stages.pretrain import pretrain
from stages.sft import sft
from stages.stage import loss_of

VOCABULARY, LENGTH, GROUP, QUERIES = 16, 8, 12, 2
NAMES = ("steps of 4", "steps of 5", "steps of 1")
NOISE = (GROUP - 2, GROUP - 1, 2 * GROUP - 2, 2 * GROUP - 1)
"""Rows that are random tokens: the last two of the first and of the second group."""


def main(steps: int = 40, picture: str = "influence.png") -> float:
    """Prints the rank correlation of each estimate with the truth; returns that of the exact derivative."""
    config = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    plain = transformer(ModelConfig(vocab_size=VOCABULARY, num_hidden_layers=1, **config))
    first = pretrain(plain, optim.adam(1e-2))
    state = first.init(random.key(0))
    for i in range(5 * steps // 2):
        state = first.step(state, lines([1, 2, 3] * 5, seed=100 + i))
    model = lora(plain, tree.cast(state.params, torch.float64), rank=4)
    stage = sft(model, optim.adamw(3e-3))
    start = tree.cast(model.init(random.key(3)), torch.float64)
    rows, queries = (
        lines([4] * GROUP + [5] * GROUP + [1] * GROUP, 1),
        lines([4] * QUERIES + [5] * QUERIES + [1] * QUERIES, 2),
    )
    rows = tree.map(lambda x, noise: x.index_put((torch.tensor(NOISE),), noise), rows, random_rows())

    # The truth.
    weights = torch.cat([torch.ones(1, 3 * GROUP), 1 - torch.eye(3 * GROUP)]).double()
    runs = population(stage, len(weights), shared_batch=False)
    repeat = lambda x: x.expand(len(weights), *x.shape).clone()  # noqa: E731
    state = runs.init(random.key(0), tree.map(repeat, start))
    for _ in range(steps):
        state = runs.step(state, {**tree.map(repeat, rows), "weights": weights})
    members = tree.unstack(state.params)
    loss = loss_of(stage)

    def query_loss(params: dict, group: int) -> Tensor:
        part = tree.map(lambda x: x[group * QUERIES : (group + 1) * QUERIES], queries)
        return loss(params, {**part, "batch_position": torch.arange(QUERIES)}, None)[0]

    losses = torch.stack([torch.stack([query_loss(p, group) for group in range(3)]) for p in members])
    truth, trained = losses[1:] - losses[0], members[0]

    # The estimates, all with the sign of the truth: positive is helpful.
    derivative = through_steps(stage, stage.init(random.key(0), start))
    exact = [
        -torch.stack(derivative([rows] * steps, lambda p, g=g: query_loss(p, g))).sum(0) for g in range(3)
    ]
    product = gauss_newton_product(
        lambda p: model.forward(p, rows["tokens"]), lambda z: cross_entropy(z, rows["labels"])[0], trained
    )
    solve = inverse_product(product, damping=10.0, tol=1e-2)
    estimates = {
        "through all optimizer steps": torch.stack(exact, 1),
        "damped Gauss-Newton": by_group(influence(loss, trained, product=solve)(rows, queries)),
        "TracIn": by_group(influence(loss, trained)(rows, queries)),
    }
    found = {name: rank_correlation(x, truth) for name, x in estimates.items()}
    for name, value in found.items():
        print(f"{name:<28} rank correlation with leaving rows out: {value:.2f}")
    harmful = rank_rows(estimates["through all optimizer steps"], 4).harmful
    for group, name in enumerate(NAMES):
        print(f"most harmful rows for {name}: {sorted(harmful[:, group].tolist())} (noise: {list(NOISE)})")
    print(plot_estimates(estimates, truth, found, picture))
    return found["through all optimizer steps"]


def lines(jumps: list[int], seed: int) -> dict[str, Tensor]:
    """Makes lines that count in the given steps from random starts."""
    start = random.randint(random.key(seed), (len(jumps), 1), 0, VOCABULARY).long()
    counted = (start + torch.tensor(jumps)[:, None] * torch.arange(LENGTH + 1)) % VOCABULARY
    return {"tokens": counted[:, :-1].contiguous(), "labels": counted[:, 1:].contiguous()}


def random_rows() -> dict[str, Tensor]:
    """Makes the rows of noise."""
    drawn = random.randint(random.key(10), (len(NOISE), LENGTH + 1), 0, VOCABULARY).long()
    return {"tokens": drawn[:, :-1].contiguous(), "labels": drawn[:, 1:].contiguous()}


def by_group(scores: Tensor) -> Tensor:
    """Adds the scores of the queries of each group: [R, 3 Q] -> [R, 3]."""
    return scores.unflatten(1, (3, QUERIES)).sum(2)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Computes Spearman's rank correlation of two tables [R, 3], averaged over the columns."""
    ranks = [x.argsort(0).argsort(0).double().T for x in (a, b)]
    pairs = zip(*ranks, strict=True)
    return float(torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean())


def plot_estimates(estimates: dict[str, Tensor], truth: Tensor, found: dict[str, float], path: str) -> str:
    """Plots each estimate against the truth; returns the path, or the command that installs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    noise = torch.zeros(len(truth), dtype=torch.bool)
    noise[list(NOISE)] = True
    for axes, (name, scores) in zip(figure.subplots(1, 3), estimates.items(), strict=True):
        for group, colour in enumerate(("tab:blue", "tab:orange", "tab:green")):
            x, y = truth[:, group], scores[:, group]
            axes.scatter(x[~noise], y[~noise], s=16, color=colour, label=f"on {NAMES[group]}")
            axes.scatter(x[noise], y[noise], s=40, color=colour, marker="x")
        axes.axhline(0, color="lightgrey", zorder=0)
        axes.axvline(0, color="lightgrey", zorder=0)
        axes.set(title=f"{name}: {found[name]:.2f}", xlabel="rise of the loss without the row, nats")
        axes.set_ylabel("estimate (crosses: rows of noise)")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
