"""Meta-gradients: learn the weights of the training rows and the learning rate, through the training itself.

`unroll(make, steps)` is training as one function. The derivative of the validation loss after it, with
respect to everything it started from, says which rows help and how large the steps should be. Half of the
training rows here are noise; nothing marks them. After a few meta-steps their weights are near 0.

    python examples/25_meta_gradients.py        (saves meta_gradients.png, if matplotlib is installed)
"""

import sys

import torch
from torch import Tensor

from pure import optim, random
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.transform.grad import value_and_grad
from pure.types import Tree
from stages.pretrain import pretrain
from stages.stage import Stage, loss_of
from stages.unroll import unroll

N, ROWS, LENGTH = 16, 16, 12


def counting(key: Tensor, rows: int) -> Tensor:
    """Rows that count up by one from a random start, modulo N."""
    return (random.randint(key, (rows, 1), 0, N).long() + torch.arange(LENGTH + 1)) % N


def to_batch(rows: Tensor) -> Tree:
    """Tokens and labels of next-token prediction."""
    return {"tokens": rows[:, :-1], "labels": rows[:, 1:]}


def main(meta_steps: int = 20, steps: int = 4, picture: str = "meta_gradients.png") -> tuple[float, float]:
    """Learns weights and rate; returns the mean weight of the good and of the noisy rows."""
    config = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformer(ModelConfig(vocab_size=N, num_hidden_layers=1, max_position_embeddings=16, **config))
    noise = random.randint(random.key(1), (ROWS // 2, LENGTH + 1), 0, N).long()
    training = to_batch(torch.cat([counting(random.key(2), ROWS // 2), noise]))
    held_out = {"batch_position": torch.arange(32), **to_batch(counting(random.key(3), 32))}

    def make(log_rate: Tensor) -> Stage:
        return pretrain(model, optim.adamw(log_rate.exp(), eps=1e-4))

    start = make(torch.tensor(-5.0)).init(random.key(0))
    loss, unrolled = loss_of(make(torch.tensor(-5.0))), unroll(make, steps)

    def validate(meta: Tree) -> Tensor:
        """Validation loss in nats a token, after training with these weights and this rate."""
        batch = {**training, "weights": ROWS * meta["scores"].softmax(0)}
        end = unrolled(start, [batch] * steps, {"log_rate": meta["log_rate"]})
        total, count, _ = loss(end.params, held_out, None)
        return total / count

    meta = {"scores": torch.zeros(ROWS), "log_rate": torch.tensor(-6.0)}
    optimizer = optim.adam(0.15)
    opt_state, history = optimizer.init(meta), []
    for _ in range(meta_steps):
        value, gradient = value_and_grad(validate)(meta)
        history.append((value, meta["log_rate"].exp(), ROWS * meta["scores"].softmax(0)))
        updates, opt_state = optimizer.update(gradient, opt_state, meta)
        meta = {name: meta[name] + updates[name] for name in meta}
    losses, rates, weights = (torch.stack(x).detach() for x in zip(*history, strict=True))
    good, noisy = weights[-1, : ROWS // 2].mean().item(), weights[-1, ROWS // 2 :].mean().item()
    print(f"loss after {steps} steps: {losses[0]:.3f} nats a token at first, {losses[-1]:.3f} at the end")
    print(f"learning rate {rates[0]:.4f} -> {rates[-1]:.4f}; mean weight: good {good:.2f}, noise {noisy:.2f}")
    print(plot_history(losses, rates, weights, picture))
    return good, noisy


def plot_history(losses: Tensor, rates: Tensor, weights: Tensor, path: str) -> str:
    """Plots loss, rate and weights over the meta-steps; returns the path, or what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    first.plot(losses.tolist())
    first.set(title="loss after the unrolled training", xlabel="meta-step", ylabel="nats a token")
    second.plot(rates.tolist())
    second.set(title="learning rate", xlabel="meta-step", yscale="log")
    for i, row in enumerate(weights.T):
        third.plot(row.tolist(), color="tab:blue" if i < ROWS // 2 else "tab:red", alpha=0.7)
    third.set(title="weight of each row (red: noise)", xlabel="meta-step")
    for axis in (first, second, third):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:])
