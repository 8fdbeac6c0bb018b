"""DP-SGD: what privacy costs, and what it protects.

A small model is trained on rows that follow a rule, and on one secret row of random tokens. Without privacy
it begins to learn the secret by heart. With DP-SGD (Abadi et al., 2016) each row's gradient is clipped, and
noise is added to their sum: the rule is still learned, the secret is not. The pictures: the loss against the
privacy that is spent (ε at δ = 1/1000; the smaller, the more private), for several noise multipliers; the
norms of the rows' gradients before and after clipping; and the loss of the secret row.

    python examples/20_dp_sgd.py [STEPS] [PICTURE.png]        (needs opacus, for its accountant)
"""

import sys

import torch

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.transform.dp_sgd import clipped, epsilon
from pure.transform.ghost import per_sample_norms
from stages.pretrain import pretrain
from stages.stage import Stage, loss_of
from stages.state import TrainState

ROWS, BATCH, LENGTH, TOKENS, BOUND, DELTA = 256, 32, 12, 16, 0.5, 1e-3
NOISES = (0.0, 0.6, 1.2)
Curve = list[tuple[float, float]]


def main(steps: int = 120, picture: str = "dp_sgd.png") -> dict[str, float]:
    """Trains without privacy and at several noises, draws the curves, returns the secret's loss of each."""
    rows = data()
    model = transformer(
        ModelConfig(
            vocab_size=TOKENS,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
        )
    )
    stages = {"no privacy": pretrain(model, optim.adamw(1e-2))}
    for noise in NOISES:
        stages[f"noise {noise}"] = pretrain(model, optim.adamw(1e-2), gradient=clipped(BOUND, noise=noise))
    secrets, curves, norms = {}, {}, torch.empty(0)
    for name, stage in stages.items():
        state, losses = train(stage, rows, steps)
        secrets[name] = mean_loss(stage, state, tree.map(lambda x: x[:1], rows))
        last = float(losses[-10:].mean())
        if name.startswith("noise"):
            noise = float(name.split()[1])
            curves[name] = [
                (epsilon(step, BATCH / ROWS, noise, DELTA), float(losses[step - 10 : step].mean()))
                for step in range(10, steps + 1, 10)
            ]
        else:
            norms = per_sample_norms(loss_of(stage))(state.params, rows, state.key) / LENGTH
        spent = f", epsilon {curves[name][-1][0]:.1f}" if name in curves else ""
        print(f"{name}: loss {last:.2f}, of the secret row {secrets[name]:.2f}{spent}")
    draw_curves(picture, curves, norms, secrets)
    return secrets


def data() -> dict[str, torch.Tensor]:
    """Makes rows that count upwards from a random token, and one secret row of random tokens, the first."""
    start = random.randint(random.key(1), (ROWS, 1), 0, TOKENS).long()
    rows = (start + torch.arange(LENGTH + 1)) % TOKENS
    rows[0] = random.randint(random.key(2), (LENGTH + 1,), 0, TOKENS).long()
    return {"tokens": rows[:, :-1].contiguous(), "labels": rows[:, 1:].contiguous()}


def train(stage: Stage, rows: dict[str, torch.Tensor], steps: int) -> tuple[TrainState, torch.Tensor]:
    """Trains on shuffled rows; returns the state and the loss of each step."""
    state, losses = stage.init(random.key(0)), []
    for step in range(steps):
        epoch, place = divmod(step, ROWS // BATCH)
        order = random.permutation(random.fold_in(random.key(3), epoch), ROWS).long()
        chosen = order[place * BATCH : (place + 1) * BATCH]
        state = stage.step(state, tree.map(lambda x, chosen=chosen: x[chosen], rows))
        losses.append(state.metrics["loss"])
    return state, torch.stack(losses)


def mean_loss(stage: Stage, state: TrainState, rows: dict[str, torch.Tensor]) -> float:
    """Mean loss of rows, nats a token."""
    total, count, _ = loss_of(stage)(state.params, rows, None)
    return float(total / count)


def draw_curves(path: str, curves: dict[str, Curve], norms: torch.Tensor, secrets: dict[str, float]) -> None:
    """Draws loss against privacy, the norms before and after clipping, and the loss of the secret."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, curve in curves.items():
        spent, loss = zip(*curve, strict=True)
        if max(spent) < float("inf"):
            left.plot(spent, loss, marker=".", label=name)
        else:
            left.axhline(loss[-1], color="black", linestyle=":", label="clipped, no noise, at the end")
    left.set(title="the price of privacy", xlabel=f"ε spent, at δ = {DELTA:g}", ylabel="loss, nats a token")
    left.legend()
    bins = torch.linspace(0, float(norms.max()), 40).tolist()
    middle.hist(norms.tolist(), bins, label="before", alpha=0.6)
    middle.hist(norms.clamp(max=BOUND).tolist(), bins, label="after", alpha=0.6)
    middle.axvline(float(norms[0]), color="tab:red", linestyle="--", label="the secret row")
    middle.axvline(BOUND, color="black", linestyle=":", label="bound")
    middle.set(title="norms of the rows' gradients", xlabel="norm", ylabel="rows", yscale="log")
    middle.legend()
    right.bar(list(secrets), list(secrets.values()), color="tab:red")
    right.axhline(float(torch.tensor(TOKENS).log()), color="black", linestyle=":", label="guessing")
    right.set(title="loss of the secret row", ylabel="nats a token")
    right.legend()
    figure.savefig(path, dpi=110)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, str), sys.argv[1:], strict=False)))
