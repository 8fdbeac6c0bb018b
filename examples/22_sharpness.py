"""Sharpness along a run: gradient descent trains at the edge of stability.

Gradient descent with learning rate η diverges along a direction whose curvature is above 2/η. The largest
eigenvalue of the loss's Hessian (the sharpness) nevertheless rises to 2/η in training, and then stays near
it. Lanczos' method finds it from 12 products with the Hessian, none of which is ever a matrix. The second
plot is the density of all eigenvalues at the end, of the Hessian and of its Gauss-Newton part, which has no
negative ones.

    python examples/22_sharpness.py        (saves sharpness.png, if matplotlib is installed)
"""

import math
import sys

import torch
from torch import Tensor

from pure import optim, random
from pure.adapt.lora import lora
from pure.config import ModelConfig
from pure.loss.cross_entropy import cross_entropy
from pure.nn.transformer import transformer
from pure.transform.curvature import Lanczos, gauss_newton_product, hutchinson, lanczos
from stages.pretrain import pretrain
from stages.sharpness import sharpness, spectrum
from stages.stage import loss_of

VOCABULARY, ROWS, LENGTH = 16, 24, 8
RATES = (0.05, 0.15)
STARTS = 3
"""Start vectors that the density of eigenvalues is averaged over."""


def main(steps: int = 400, picture: str = "sharpness.png") -> float:
    """Trains with two learning rates; returns the last sharpness times the learning rate, near 2."""
    config = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = transformer(ModelConfig(vocab_size=VOCABULARY, num_hidden_layers=1, **config))
    start = random.randint(random.key(1), (ROWS, 1), 0, VOCABULARY).long()
    lines = (start + (1 + torch.arange(ROWS)[:, None] % 3) * torch.arange(LENGTH + 1)) % VOCABULARY
    batch = {"tokens": lines[:, :-1].contiguous(), "labels": lines[:, 1:].contiguous()}
    batch["batch_position"] = torch.arange(ROWS)
    every = max(steps // 40, 1)
    curves: dict[float, list[tuple[int, float, float]]] = {rate: [] for rate in RATES}
    for rate, curve in curves.items():
        stage = pretrain(model, optim.sgd(rate))
        state = stage.init(random.key(0))
        for i in range(1, steps + 1):
            state = stage.step(state, batch)
            if i % every == 0:
                found = sharpness(loss_of(stage), state.params, batch, random.key(2), steps=12)
                curve.append((i, float(state.metrics["loss"]), float(found)))
        last = curve[-len(curve) // 2 :]
        product = rate * sum(value for _, _, value in last) / len(last)
        print(f"learning rate {rate}: 2/η = {2 / rate:.1f}, sharpness {last[-1][2]:.1f} at the end;")
        print(f"    sharpness times learning rate in the second half: {product:.2f}")

    mean_entropy = lambda z: cross_entropy(z, batch["labels"])[0] / (ROWS * LENGTH)  # noqa: E731
    positive = gauss_newton_product(lambda p: model.forward(p, batch["tokens"]), mean_entropy, state.params)
    keys = random.split(random.key(3), STARTS).unbind(0)
    hessian = [spectrum(loss_of(stage), state.params, batch, key, steps=30) for key in keys]
    gauss_newton = [lanczos(positive, key, state.params, 30) for key in keys]
    trace = hutchinson(positive, random.key(4), state.params, 20)
    values, residuals = hessian[0].values, hessian[0].residuals
    error = float(residuals[[0, -1]].max())
    print(f"eigenvalues from {values[0]:.2f} to {values[-1]:.2f}, errors at most {error:.1e}")
    print(
        f"of the Gauss-Newton matrix from {gauss_newton[0].values[0]:.2f} to "
        f"{gauss_newton[0].values[-1]:.2f}, sum {trace.value:.0f} ± {trace.standard_error:.0f}"
    )
    adapted = lora(model, state.params, rank=2, targets=("q", "v"))
    stage = pretrain(adapted, optim.sgd(0.1))
    of_lora = sharpness(loss_of(stage), adapted.init(random.key(5)), batch, random.key(6))
    print(f"largest eigenvalue for new LoRA adapters on q and v: {of_lora:.2f}")
    print(plot_sharpness(curves, {"Hessian": hessian, "Gauss-Newton": gauss_newton}, picture))
    return product


def smooth_density(found: Lanczos, grid: Tensor) -> Tensor:
    """Computes the density of eigenvalues on a grid: a Gaussian for each Ritz value, times its weight."""
    width = 0.02 * float(grid[-1] - grid[0])
    distance = (grid[:, None] - found.values) / width
    return (found.weights * (-distance.square() / 2).exp()).sum(1) / (width * math.sqrt(2 * math.pi))


def plot_sharpness(
    curves: dict[float, list[tuple[int, float, float]]], found: dict[str, list[Lanczos]], path: str
) -> str:
    """Plots sharpness and densities; returns the path, or the command that installs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for (rate, curve), colour in zip(curves.items(), ("tab:blue", "tab:orange"), strict=True):
        step, loss, value = zip(*curve, strict=True)
        left.plot(step, value, color=colour, label=f"η = {rate}")
        left.axhline(2 / rate, color=colour, linestyle="--", label=f"2/η = {2 / rate:.1f}")
        middle.plot(step, loss, color=colour, label=f"η = {rate}")
    left.set(title="largest eigenvalue of the Hessian", xlabel="step", ylim=(0, None))
    middle.set(title="loss, nats a token", xlabel="step")
    edges = torch.stack([x.values[[0, -1]] for results in found.values() for x in results])
    low, high = float(edges.min()), float(edges.max())
    grid = torch.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low), 400)
    for name, results in found.items():
        density = torch.stack([smooth_density(x, grid) for x in results]).mean(0)
        right.semilogy(grid, density.clamp(min=1e-6), label=name)
    right.set(title="density of eigenvalues at the end", xlabel="eigenvalue", ylim=(1e-6, None))
    for axes in (left, middle, right):
        axes.legend()
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
