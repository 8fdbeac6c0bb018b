"""Orbax's own folders, written by Orbax in a process with eight simulated devices: python -m ... FOLDER."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def params() -> dict:
    """Params with a list, bfloat16, float8 and a 0-d leaf."""
    layers = [{"w": jnp.arange(6.0).reshape(2, 3)}, {"w": jnp.full((2, 3), 0.1, jnp.bfloat16)}]
    return {"layers": layers, "scale": jnp.float32(3), "f8": jnp.full((2,), 0.5, jnp.float8_e4m3fn)}


def main(folder: Path) -> None:
    """Writes one folder for each form."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    small = {"w": jnp.arange(3.0)}
    _, opt_state = tx.update({"w": jnp.ones(3)}, tx.init(small), small)
    state = {"step": jnp.int32(7), "key": jax.random.key(3), "params": small, "opt_state": opt_state}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "standard", params())
        checkpointer.save(folder / "state", state)
        flax_state = TrainState.create(apply_fn=None, params=small, tx=tx)
        checkpointer.save(folder / "flax_state", flax_state.replace(step=7, opt_state=opt_state))
        module = nnx.List([nnx.Dict(kernel=nnx.Param(jnp.full((2,), float(i)))) for i in range(11)])
        checkpointer.save(folder / "nnx", nnx.state(module))
        mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
        placed = jax.device_put(jnp.arange(64.0).reshape(8, 8), NamedSharding(mesh, P("data", "model")))
        checkpointer.save(folder / "sharded", {"w": placed})
        checkpointer.save(folder / "dotted", {"a.b": jnp.ones(2), "a": {"b": jnp.zeros(2)}})
    unmerged = epath.Path(folder / "unmerged")
    ocp.StandardCheckpointHandler().save(unmerged, args=ocp.args.StandardSave(small))
    with ocp.PyTreeCheckpointer() as checkpointer:
        numbers = {"i": 3, "f": 2.5, "big": np.array([2**40]), "text": "words", "none": None, "empty": {}}
        checkpointer.save(folder / "numbers", numbers)
        checkpointer.save(folder / "int4", {"w": jnp.ones(2, jnp.int4)})
    with ocp.CheckpointManager(folder / "manager") as manager:
        for step in (2, 10):
            manager.save(step, args=ocp.args.StandardSave({"w": jnp.full(2, float(step))}))
    with ocp.CheckpointManager(
        folder / "items", options=ocp.CheckpointManagerOptions(step_prefix="at")
    ) as manager:
        items = {"params": ocp.args.StandardSave(small), "state": ocp.args.StandardSave(state)}
        manager.save(5, args=ocp.args.Composite(**items, notes=ocp.args.JsonSave({"a": 1})))
    for name, options in {"zarr2": {}, "zarr3": {"use_zarr3": True}}.items():
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False, **options)) as checkpointer:
            checkpointer.save(folder / name, params())
    try:
        from orbax.checkpoint import v1
    except ImportError:  # before 0.12
        return
    if not hasattr(v1, "save"):
        return
    v1.save(folder / "v1", params())
    with v1.training.Checkpointer(folder / "v1_steps") as steps:
        steps.save(3, params())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
