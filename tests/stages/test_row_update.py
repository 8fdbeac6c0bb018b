"""Optimizers of every kind on rows: initial states and updates are those of whole leaves."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from pure import optim, random, tree
from pure.optim.leafwise import mark_as_inner
from pure.parallel import rows
from pure.types import GradientTransformation, Tree
from stages.row_update import init_optimizer, update_rows
from stages.step import update
from tests.crew import Crew
from tests.laws.test_processes import distance
from tests.laws.test_stages import same_bits

pytestmark = pytest.mark.processes

OPTIMIZERS = {
    "elementwise": optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(0.1, mask=optim.decay_mask)),
    "elementwise, a copy of the params": optim.schedule_free_adamw(0.1),
    "elementwise, numbers in the state": optim.inject_hyperparams(optim.adagrad)(torch.tensor(0.1)),
    "elementwise, groups": optim.partition(
        {"a": optim.lion(0.1), "b": optim.sgd(0.1, 0.9)}, {"embedding": "a", "layers": "b"}
    ),
    "elementwise, counts": optim.apply_if_finite(optim.adam(0.1), 3),
    "leafwise, matrices": optim.muon(0.1, ns_steps=2, muon_weight_dimension_numbers=optim.hidden_matrices),
    "leafwise, squares": optim.soap(0.1, precondition_frequency=1),
    "leafwise, means": optim.adafactor(0.1, min_dim_size_to_factor=2, momentum=0.9),
    "leafwise, norms": optim.lamb(0.1),
    "leafwise, a copy of the params": optim.schedule_free(optim.lamb(0.1, b1=0.0), 0.1),
    "leafwise, a flag": optim.chain(optim.zero_nans(), optim.cautious(optim.lion(0.1))),
    "whole, a clip after another link": optim.chain(optim.adam(0.1), optim.clip_by_global_norm(0.1)),
    "whole, several steps": optim.MultiSteps(optim.sgd(0.1), 2, should_skip_update_fn=optim.skip_not_finite),
    "whole, an unmarked mask": optim.adamw(
        0.1, mask=lambda params: tree.map(lambda x: x.numel() > 8, params)
    ),
}


@functools.cache
def odd_tree(seed: int) -> Tree:
    """Leaves of 5, 1, 3 and 6 rows, and one []."""
    key, shapes = random.key(seed), {"norm": (1,), "q": (3, 2), "scale": (), "up": (6, 3)}
    layers = [
        {name: random.normal(random.fold_in(key, 9 * i + len(name)), shape) for name, shape in shapes.items()}
        for i in range(2)
    ]
    return {"embedding": random.normal(key, (5, 4)), "layers": layers}


def train(optimizer: GradientTransformation, cut: bool) -> Tree:
    """Params, optimizer state and average after two updates."""
    params = odd_tree(0)
    if cut:
        params = rows.cut(params, init_device_mesh("cpu", (dist.get_world_size(),)))
    extra = {"ema": tree.clone(params), "ema_count": torch.zeros((), dtype=torch.int32)}
    trained = {"params": params, "opt_state": init_optimizer(optimizer, params), "extra": extra}
    if cut:
        leaves = tree.leaves(trained)
        assert all(rows.is_cut(x) == bool(x.ndim) for x in leaves)
    one = mark_as_inner(lambda *args: update(*args, optimizer=optimizer, ema=0.9), optimizer)
    for seed in range(1, 3):
        grads = odd_tree(seed)
        scalars = {"grad_norm": tree.norm(grads), "finite": torch.tensor(True), "value": torch.tensor(1.0)}
        if cut:
            grads = rows.own_like(grads, trained["params"])
        trained = update_rows(one, trained, grads, torch.tensor(0.5), scalars)
    return rows.gather(trained)


def check(wholes: dict[str, Tree]) -> None:
    for name, whole in wholes.items():
        cut = train(OPTIMIZERS[name], cut=True)
        if name == "leafwise, squares":  # LAPACK's bases lie in memory by column, those of rows by row
            assert distance(cut, whole) < 1e-6
        else:
            assert same_bits(cut, whole), name


def test_updates_of_rows_are_the_rows_of_the_updates(four: Crew) -> None:
    four.run(check, {name: train(optimizer, cut=False) for name, optimizer in OPTIMIZERS.items()})


def test_each_optimizer_is_of_the_kind_that_it_stands_for() -> None:
    for name, optimizer in OPTIMIZERS.items():
        assert optim.is_elementwise(optimizer) is name.startswith("elementwise")
        assert (optim.is_elementwise(optimizer) or optim.is_leafwise(optimizer)) is not name.startswith(
            "whole"
        )
