"""The lowered pretraining step in JAX: speed, compilation, tracing, one loss curve, and eight devices.

- speed: the lowered step under jax.jit against a step written by hand in jax.numpy and optax; torch eager and
  torch compiled for comparison. Two layers of width 128, vocabulary 1024, 8 rows of 128 tokens, float32.
- compile: XLA's compilation of both against Inductor's, each in a new process with an empty cache.
- trace: CPU seconds of tracing the whole step, and of reading the serialised program instead.
- curve: losses of 50 steps taken in five ways: in torch, by the lowered step, by the lowered loss with optax,
  25 in torch then 25 in JAX, and the reverse; the state crosses as bytes.
- mesh: the step on 8 simulated devices, 4 for data times 2 for the model, and its collectives.

    python benchmarks/jax_border.py [--pairs N] [--only speed compile trace curve mesh] [--cores N]
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

PARTS = ("speed", "compile", "trace", "curve", "mesh")
LARGE: Mapping[str, int] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 128,
}
TINY: Mapping[str, int] = {
    **LARGE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "vocab_size": 97,
    "max_position_embeddings": 16,
}
STEPS, HALF = 50, 25


def main() -> None:
    """Run each part in a process of its own and print its lines."""
    import _timing

    parser = _timing.make_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run (all)")
    parser.add_argument("--cores", type=int, default=1, help="processor cores for every side (1)")
    parser.add_argument("--part", help="a part to run in this process")
    arguments = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if arguments.part:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
        globals()[f"run_{arguments.part}"](arguments.pairs)
        return
    for part in arguments.only:
        run_part(part, arguments.pairs, arguments.cores)


def run_part(part: str, pairs: int, cores: int, **environment: str) -> None:
    """Run one part in a new process."""
    if part == "mesh":
        environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    command = [sys.executable, __file__, "--part", part, "--pairs", str(pairs), "--cores", str(cores)]
    subprocess.run(command, env={**os.environ, **environment}, check=True)


def make_stage(sizes: Mapping[str, int]) -> tuple[Any, Any]:
    """Return the stage and the same optimizer of optax."""
    import optax
    from _model import small_config

    from pure import optim
    from pure.nn.transformer import transformer
    from stages.pretrain import pretrain

    def make_optimizer(library: Any) -> Any:
        rate = library.warmup_cosine_decay_schedule(1e-4, 3e-3, 5, STEPS)
        return library.chain(library.clip_by_global_norm(1.0), library.adamw(rate, weight_decay=0.1))

    stage = pretrain(transformer(small_config(**sizes)), make_optimizer(optim))
    return stage, make_optimizer(optax)


def make_batch(sizes: Mapping[str, int], number: int = 0) -> dict[str, Any]:
    """Return batch `number`: 8 rows that count upwards in steps of 1 to 3, and the labels."""
    import torch

    from pure import random

    first, stride = (random.randint(random.key(2 * number + i), (8, 1), 1, 4) for i in range(2))
    places = torch.arange(sizes["max_position_embeddings"] + 1)
    tokens = (first * 7 + stride * places) % sizes["vocab_size"]
    return {"tokens": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}


def make_jax_sides(sizes: Mapping[str, int]) -> tuple[Any, Any, Callable, Callable]:
    """Return state and batch in jax, and the two steps (state, batch) -> (state, loss), not yet jitted."""
    from _jax_model import make_loss, make_step
    from _model import small_config

    from pure import random
    from pure.interop.jax import lower, to_jax

    stage, optimizer = make_stage(sizes)
    state, batch = stage.init(random.key(0)), make_batch(sizes)
    lowered = lower(stage.step, state, batch)
    handwritten = make_step(make_loss(small_config(**sizes)), optimizer)

    def step_by_hand(state: Any, batch: Any) -> tuple[Any, Any]:
        params, opt_state, loss = handwritten(*state, batch["tokens"], batch["labels"])
        return (params, opt_state), loss

    return to_jax(state), convert_batch(batch), return_loss(lowered), step_by_hand


def return_loss(step: Callable) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Turn a stage's step into (state, batch) -> (the next state, its loss)."""

    def step_with_loss(state: Any, batch: Any) -> tuple[Any, Any]:
        next_state = step(state, batch)
        return next_state, next_state.metrics["loss"]

    return step_with_loss


def convert_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Convert a batch to jax's 32-bit integers."""
    from pure.interop.jax import to_jax

    return {name: to_jax(x.int()) for name, x in batch.items()}


def repeat_step(step: Callable, state: Any, batch: Any) -> Callable[[], Any]:
    """Return a function that takes the next step each time, and returns its loss."""
    current = [state]

    def take_step() -> Any:
        current[0], loss = step(current[0], batch)
        return loss

    return take_step


def run_speed(pairs: int) -> None:
    """Time the four implementations in interleaved rounds."""
    import _timing
    import jax
    import torch

    from pure import random
    from pure.transform.jit import jit

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    state, batch, lowered, by_hand = make_jax_sides(LARGE)
    stage, optimizer = make_stage(LARGE)
    start, data = stage.init(random.key(0)), make_batch(LARGE)
    compiled = jit(stage.step, donate=True, regions=True)
    sides = {
        "lowered": repeat_step(jax.jit(lowered), state, batch),
        "by hand": repeat_step(jax.jit(by_hand), (state.params, optimizer.init(state.params)), batch),
        "torch eager": repeat_step(return_loss(stage.step), start, data),
        "torch compiled": repeat_step(return_loss(compiled), stage.init(random.key(0)), data),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
        side()
    for number in range(pairs):
        for name in list(sides) if number % 2 else reversed(sides):
            times[name].append(_timing.time_call(sides[name]))
    print(f"speed, {pairs} rounds, {torch.get_num_threads()} threads, median milliseconds (minimum):")
    for name, values in times.items():
        ratio = statistics.median(x / y for x, y in zip(values, times["lowered"], strict=True))
        least, median = min(values) * 1e3, statistics.median(values) * 1e3
        print(f"  {name:<16} {median:7.1f} ({least:.1f})   {ratio:.2f} times the lowered step")


def run_compile(pairs: int) -> None:
    """Time cold compilation of each side in a new process."""
    del pairs
    for side in ("lowered", "by_hand", "inductor"):
        with tempfile.TemporaryDirectory() as cache:
            run_part(f"compile_{side}", 1, len(os.sched_getaffinity(0)), TORCHINDUCTOR_CACHE_DIR=cache)


def run_compile_lowered(pairs: int) -> None:
    """Time jax's trace and XLA's compilation of the lowered step."""
    del pairs
    state, batch, lowered, _ = make_jax_sides(LARGE)
    print_compilation("lowered", lowered, state, batch)


def run_compile_by_hand(pairs: int) -> None:
    """Time jax's trace and XLA's compilation of the step written by hand."""
    del pairs
    state, batch, _, by_hand = make_jax_sides(LARGE)
    optimizer = make_stage(LARGE)[1]
    print_compilation("by hand", by_hand, (state.params, optimizer.init(state.params)), batch)


def print_compilation(name: str, step: Callable, state: Any, batch: Any) -> None:
    """Trace a step by jax and compile it by XLA, and print the seconds of each."""
    import jax

    start = time.perf_counter()
    traced = jax.jit(step).lower(state, batch)
    traced_at = time.perf_counter()
    traced.compile()
    end = time.perf_counter()
    print(f"compile, {name}: jax's trace {traced_at - start:.1f} s, XLA {end - traced_at:.1f} s")


def run_compile_inductor(pairs: int) -> None:
    """Time Dynamo and Inductor on the same step: the first call, less the time of the second."""
    del pairs
    from pure import random
    from pure.transform.jit import jit

    stage, _ = make_stage(LARGE)
    state, batch = stage.init(random.key(0)), make_batch(LARGE)
    step = jit(stage.step, donate=True, regions=True)
    start = time.perf_counter()
    step(state, batch)
    compiled_at = time.perf_counter()
    step(state, batch)
    end = time.perf_counter()
    print(f"compile, torch: {(compiled_at - start) - (end - compiled_at):.1f} s")


def run_trace(pairs: int) -> None:
    """Measure CPU seconds of tracing the step, and of reading its serialised program."""
    del pairs
    from pure import random, tree
    from pure.interop.jax.aten.table import TABLE
    from pure.interop.jax.program import Shaped, from_bytes, to_bytes
    from pure.interop.jax.trace import trace

    stage, _ = make_stage(LARGE)
    state, batch = stage.init(random.key(0)), make_batch(LARGE)
    shapes = tree.map(lambda x: Shaped(tuple(x.shape), str(x.dtype).removeprefix("torch.")), (state, batch))
    for name in ("the first time", "again"):
        start = time.process_time()
        program = trace(stage.step, (shapes, {}), covered=TABLE.keys())
        seconds = time.process_time() - start
        print(f"trace {name}: {seconds:.1f} CPU seconds, {len(program.operations)} operations")
    data = to_bytes(program)
    start = time.process_time()
    from_bytes(data)
    print(
        f"serialised program: {len(data) / 1e6:.2f} MB, read in {time.process_time() - start:.3f} CPU seconds"
    )


def run_curve(pairs: int) -> None:
    """Compare 50 losses of five ways to compute them."""
    del pairs
    import flax.serialization
    import jax

    from pure import random
    from pure.interop.jax import to_torch
    from pure.serial import serial

    stage, optimizer = make_stage(TINY)
    state, _, lowered, _ = make_jax_sides(TINY)
    batches = [make_batch(TINY, number) for number in range(STEPS)]
    jax_batches = [convert_batch(batch) for batch in batches]
    loss_step = jax.jit(lowered_loss_with_optax(stage, optimizer, batches[0]))
    torch_step, start = return_loss(stage.step), stage.init(random.key(0))
    jax_start = (state.params, optimizer.init(state.params))

    def run(step: Callable, state: Any, batches: list) -> tuple[Any, list[float]]:
        losses = []
        for batch in batches:
            state, loss = step(state, batch)
            losses.append(float(loss))
        return state, losses

    curves = {"torch": run(torch_step, start, batches)[1]}
    curves["lowered step"] = run(jax.jit(lowered), state, jax_batches)[1]
    curves["lowered loss, optax"] = run(loss_step, jax_start, jax_batches)[1]
    middle, first_losses = run(torch_step, start, batches[:HALF])
    moved = flax.serialization.from_bytes(jax_start, serial.to_bytes((middle.params, middle.opt_state)))
    moved = jax.tree.map(jax.numpy.asarray, moved)
    curves["25 torch, 25 optax"] = first_losses + run(loss_step, moved, jax_batches[HALF:])[1]
    (params, opt_state), first_losses = run(loss_step, jax_start, jax_batches[:HALF])
    torch_opt_state = serial.from_bytes(start.opt_state, flax.serialization.to_bytes(opt_state))
    moved = start._replace(step=start.step + HALF, params=to_torch(params), opt_state=torch_opt_state)
    curves["25 optax, 25 torch"] = first_losses + run(torch_step, moved, batches[HALF:])[1]
    print(f"curve, {STEPS} steps: loss at 0, 24, 25, 49; largest relative difference from torch")
    for name, losses in curves.items():
        shown = "  ".join(f"{losses[i]:.7f}" for i in (0, 24, 25, 49))
        print(f"  {name:<20} {shown}   {largest_difference(losses, curves['torch']):.1e}")


def largest_difference(losses: list[float], expected: list[float]) -> float:
    """Compute the largest relative difference of two lists of losses."""
    return max(abs(x / y - 1) for x, y in zip(losses, expected, strict=True))


def lowered_loss_with_optax(stage: Any, optimizer: Any, batch: Any) -> Callable:
    """Return a step of optax on our lowered loss: ((params, opt_state), batch) -> (the same, loss)."""
    import jax
    import optax

    from pure import random
    from pure.interop.jax import lower

    def mean_loss(params: Any, batch: Any) -> Any:
        total, count, _ = stage.loss(params, batch, None)
        return total / count

    loss = lower(mean_loss, stage.init(random.key(0)).params, batch)

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return step


def run_mesh(pairs: int) -> None:
    """Compare the sharded step with the step on one device, and count its collectives."""
    del pairs
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    state, batch, lowered, _ = make_jax_sides(TINY)
    expected = take_losses(jax.jit(lowered), state, batch)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    replicated = NamedSharding(mesh, PartitionSpec())
    for name, spec in (("data", PartitionSpec()), ("data x model", PartitionSpec("data", "model"))):
        matrix_sharding = NamedSharding(mesh, spec)
        shardings = jax.tree.map(lambda x, s=matrix_sharding: s if can_shard(x) else replicated, state)
        sharded = jax.device_put(state, shardings)
        rows = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
        start = time.perf_counter()
        compiled = jax.jit(lowered).lower(sharded, rows).compile()
        seconds = time.perf_counter() - start
        losses = take_losses(jax.jit(lowered), sharded, rows)
        difference = largest_difference(losses, expected)
        counts = count_collectives(compiled.as_text())
        print(f"mesh, {name}: 3 losses differ by {difference:.1e}; {counts}; compiled in {seconds:.0f} s")


def take_losses(step: Callable, state: Any, batch: Any) -> list[float]:
    """Return the losses of three steps on one batch."""
    losses = []
    for _ in range(3):
        state, loss = step(state, batch)
        losses.append(float(loss))
    return losses


def can_shard(x: Any) -> bool:
    """Test whether x is a matrix whose axes are divisible by the mesh's, 4 x 2."""
    return x.ndim == 2 and not x.shape[0] % 4 and not x.shape[1] % 2


def count_collectives(text: str) -> str:
    """Count the collective operations of a compiled program."""
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
    counts = {kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in kinds}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


if __name__ == "__main__":
    main()
