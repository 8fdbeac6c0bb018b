"""Marks of optimizers that may update layer by layer (`is_leafwise`) or by rows (`is_elementwise`).

That such updates equal those of the whole tree is a law in `tests/laws/test_optimizers.py`.
"""

from __future__ import annotations

from functools import partial

import pytest

from pure import optim
from pure.types import GradientTransformation


def plain_update(updates: list, state: tuple, params: list | None = None) -> tuple[list, tuple]:
    return updates, state


PLAIN = GradientTransformation(lambda params: (), plain_update)
MARKED = GradientTransformation(lambda params: (), optim.leafwise(partial(plain_update)))
CLIP, FINITE = optim.clip_by_global_norm(1.0), optim.apply_if_finite(optim.adam(0.1), 3)


@pytest.mark.parametrize(
    "opt",
    [
        optim.adamw(0.1, mask=optim.decay_mask),
        optim.chain(CLIP, optim.adamw(0.1)),
        optim.chain(optim.identity(), CLIP, optim.sgd(0.1)),
        optim.apply_if_finite(optim.chain(CLIP, optim.adam(0.1)), 3),
        optim.chain(optim.clip(1.0), FINITE),
        optim.muon(0.1, muon_weight_dimension_numbers=optim.hidden_matrices),
        optim.muon(0.1),
        optim.inject_hyperparams(optim.adamw)(0.1, mask=optim.path_mask("/q/")),
        optim.chain(optim.ema(0.9), optim.lion(0.1), optim.reduce_on_plateau()),
        MARKED,
        optim.chain(MARKED, optim.adam(0.1)),
    ],
    ids=lambda opt: str(opt.update.func.__name__),
)
def test_marked_optimizers_and_chains_that_clip_by_norm_first_are_leafwise(
    opt: GradientTransformation,
) -> None:
    assert optim.is_leafwise(opt)


@pytest.mark.parametrize(
    "opt",
    [
        optim.chain(optim.scale(2.0), CLIP),
        optim.chain(CLIP, CLIP),
        optim.masked(CLIP, optim.decay_mask),
        optim.adamw(0.1, mask={"a": True}),
        optim.adamw(0.1, mask=lambda params: params),
        optim.adamw(0.1, mask=optim.path_mask("/layers/3/")),
        optim.partition({"a": optim.sgd(0.1)}, {"w": "a"}),
        optim.muon(0.1, muon_weight_dimension_numbers={"w": optim.MuonDimensionNumbers()}),
        optim.inject_hyperparams(optim.adamw)(0.1, mask={"a": True}),
        PLAIN,
        optim.chain(PLAIN, optim.adam(0.1)),
    ],
    ids=lambda opt: getattr(opt.update, "func", opt.update).__name__,
)
def test_unmarked_optimizers_and_those_that_depend_on_the_whole_tree_are_not_leafwise(
    opt: GradientTransformation,
) -> None:
    assert not optim.is_leafwise(opt)


@pytest.mark.parametrize(
    "opt",
    [
        optim.adamw(0.1, mask=optim.decay_mask),
        optim.adamw(0.1, mask={"a": True}),
        optim.adamw(0.1, mask=optim.path_mask("/layers/3/")),
        optim.chain(CLIP, optim.adamw(0.1)),
        optim.partition({"a": optim.sgd(0.1), "b": optim.adam(0.1)}, {"w": "a"}),
        optim.selective_transform(optim.lion(0.1), freeze_mask=optim.decay_mask),
        optim.inject_hyperparams(optim.adamw)(0.1),
        optim.chain(optim.clip(1.0), FINITE),
        optim.schedule_free_adamw(),
        GradientTransformation(lambda params: (), optim.elementwise(partial(plain_update))),
    ],
    ids=lambda opt: getattr(opt.update, "func", opt.update).__name__,
)
def test_elementwise_optimizers_and_what_is_made_of_them(opt: GradientTransformation) -> None:
    assert optim.is_elementwise(opt)


@pytest.mark.parametrize(
    "opt",
    [
        optim.chain(optim.scale(2.0), CLIP),
        optim.masked(CLIP, optim.decay_mask),
        optim.adamw(0.1, mask=lambda params: {"w": params["w"].shape[0] > 4}),
        optim.partition({"a": optim.sgd(0.1), "b": optim.muon(0.1)}, {"w": "a"}),
        optim.partition({"a": optim.sgd(0.1)}, lambda params: {"w": "a"}),
        optim.chain(optim.adam(0.1), optim.scale_by_shape()),
        optim.cautious(optim.adam(0.1)),
        optim.schedule_free(optim.lamb(0.1), 0.1),
        optim.apply_if_finite(optim.soap(0.1), 3),
        PLAIN,
        MARKED,
        optim.chain(PLAIN, optim.adam(0.1)),
    ],
    ids=lambda opt: getattr(opt.update, "func", opt.update).__name__,
)
def test_optimizers_that_see_whole_leaves_are_not_elementwise(opt: GradientTransformation) -> None:
    assert not optim.is_elementwise(opt)
