"""One training step on eight devices: lowered to JAX, sharded by a mesh, with the numbers of torch on one.

`lower` makes a JAX function of the whole step: loss, gradients, clipping and AdamW. XLA then splits it over a
mesh of 4 x 2: the rows of the batch over "data", the matrices and their moments over both axes. Nothing of
the step is written for it. A CPU pretends to be eight devices here; on a machine with eight the same lines
use them.

    python examples/18_eight_devices.py        (saves eight_devices.png, if matplotlib is installed)
"""

import re
import sys
from collections import Counter
from functools import partial

import jax
import numpy as np
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pure import optim, random
from pure.config import ModelConfig
from pure.interop.jax import lower, to_jax
from pure.nn.transformer import transformer
from stages.pretrain import pretrain

VOCABULARY, LENGTH, ROWS = 64, 16, 8
COLLECTIVES = re.compile(
    r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def main(steps: int = 60, picture: str = "eight_devices.png") -> float:
    """Trains in torch and on eight devices of JAX; returns the largest relative difference of a loss."""
    jax.config.update("jax_num_cpu_devices", 8)  # before JAX first computes
    config = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformer(
        ModelConfig(vocab_size=VOCABULARY, num_hidden_layers=1, max_position_embeddings=64, **config)
    )
    rate = optim.warmup_cosine_decay_schedule(0.0, 3e-3, max(1, steps // 6), steps)
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(rate))
    stage = pretrain(model, optimizer)
    rows = (torch.arange(LENGTH + 1) * torch.arange(1, ROWS + 1)[:, None]) % VOCABULARY
    batch = {"tokens": rows[:, :-1], "labels": rows[:, 1:], "batch_position": torch.arange(ROWS)}
    batch = {name: x.int() for name, x in batch.items()}  # JAX without 64-bit types
    state = stage.init(random.key(0))
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))
    places = jax.tree.map(partial(place, mesh=mesh), to_jax(state))
    rows_over_data = NamedSharding(mesh, PartitionSpec("data"))
    step = jax.jit(lower(stage.step), in_shardings=(places, rows_over_data), out_shardings=places)
    compiled = step.lower(to_jax(state), to_jax(batch)).compile()
    collectives = Counter(COLLECTIVES.findall(compiled.as_text()))
    print("collectives in the compiled step:", dict(collectives))

    one = run(stage.step, state, batch, steps)
    eight = run(
        compiled, jax.device_put(to_jax(state), places), jax.device_put(to_jax(batch), rows_over_data), steps
    )
    differences = [abs(a - b) / a for a, b in zip(one, eight, strict=True)]
    print(f"loss of step {steps}: {one[-1]:.6f} in torch, {eight[-1]:.6f} on eight devices")
    for first in (1, 5, steps):
        print(f"largest relative difference in the first {first} steps: {max(differences[:first]):.1e}")
    print(plot_devices(one, eight, dict(collectives), picture))
    return max(differences)


def place(x: jax.Array, *, mesh: Mesh) -> NamedSharding:
    """Shards matrices, and their moments, over both axes of the mesh; the rest is on every device."""
    axes = ("data", "model") if x.ndim == 2 else ()
    return NamedSharding(mesh, PartitionSpec(*axes))


def run(step: object, state: object, batch: object, steps: int) -> list[float]:
    """Steps, and returns the losses."""
    losses = []
    for _ in range(steps):
        state = step(state, batch)
        losses.append(float(state.metrics["loss"]))
    return losses


def plot_devices(one: list[float], eight: list[float], collectives: dict[str, int], path: str) -> str:
    """Plots both losses next to the collectives; returns the path, or the command that installs
    matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(one, linewidth=5, alpha=0.4, label="torch")
    left.plot(eight, linestyle="--", color="black", label="eight devices, 4 x 2")
    left.set(title="the same step", xlabel="step", ylabel="loss, nats per token", ylim=(0, None))
    left.legend()
    right.bar(list(collectives), list(collectives.values()))
    right.set(title="collectives that XLA put into the step")
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
