"""The laws of every optimizer. A new one is a row in TABLE, with its optax twin, and inherits every law.

Formulas are compared in float64 (optax under `enable_x64`), where agreement to 1e-12 leaves no room for a
wrong term; and in float32, which is what a run sees.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import pytorch_optimizer
import torch
from pytorch_optimizer.optimizer.muon import normuon
from torch import Tensor
from torch._inductor.utils import run_and_get_code

from pure import optim, tree
from pure.optim.newton_schulz import DION
from pure.parallel.group import Group
from pure.parallel.row_collectives import own_rows
from pure.serial import serial
from pure.types import GradientTransformation, Tree

STEPS = 200


pytestmark = pytest.mark.usefixtures("quick_xla")  # the peers' programs run for milliseconds


class Row(NamedTuple):
    """An optimizer, its twin in optax, and how far they may differ after 200 updates, relative to the largest
    parameter.

    An optimizer that optax does not have has no peer, and a reference: a function from the named parameters of
    torch to an optimizer of the package pytorch-optimizer, or None if a test of its own has the formula.
    """

    name: str
    ours: Callable[[], GradientTransformation]
    peer: Callable[[], optax.GradientTransformation] | None = None
    float32: float | None = 1e-6
    float64: float | None = 1e-12  # None: not compared, as other rows compare each of its formulas
    leafwise: bool = True  # see optim.is_leafwise
    reference: Callable[[dict[str, torch.nn.Parameter]], torch.optim.Optimizer] | None = None


def warmup_cosine(library: Any) -> Callable:
    return library.warmup_cosine_decay_schedule(0.0, 0.02, 10, 180, 0.002)


def optax_decay_mask(params: Tree) -> Tree:
    return {"embedding": True, "layers": [{"norm": False, "q": True} for _ in params["layers"]]}


def matrix_mask(params: Tree) -> Tree:
    return {"embedding": False, "layers": [{"norm": False, "q": True} for _ in params["layers"]]}


def masked_adam_then_sgd(library: Any, mask: Any) -> Any:
    return library.chain(library.masked(library.scale_by_adam(), mask), library.sgd(0.01))


def partition(library: Any) -> Any:
    groups = {"a": library.adam(0.01), "b": library.sgd(0.1)}
    return library.partition(groups, {"embedding": "b", "layers": "a"})


def plateau(library: Any) -> Any:
    return library.reduce_on_plateau(0.5, 2, cooldown=3, accumulation_size=4)


def norm_mask(params: Tree) -> Tree:
    return {"embedding": False, "layers": [{"norm": True, "q": False} for _ in params["layers"]]}


def muon_for_layers(library: Any, matrices: Callable) -> Any:
    options = {"consistent_rms": 0.2, "muon_weight_dimension_numbers": matrices}
    return library.muon(0.02, ns_steps=2, weight_decay=0.1, **options)


def optax_matrices(params: Tree) -> Tree:
    """The matrices that `optim.hidden_matrices` selects."""
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=0)
    return {"embedding": None, "layers": [{"norm": None, "q": axes} for _ in params["layers"]]}


def muon_for_all(library: Any) -> Any:
    axes = library.MuonDimensionNumbers(reduction_axis=(1,), output_axis=(0,))
    return library.muon(
        base_library(library).linear_schedule(0.02, 0.0, STEPS),
        ns_coeffs=DION[-2:],
        ns_steps=2,
        nesterov=False,
        adaptive=True,
        preconditioning="schatten",
        muon_weight_dimension_numbers=partial(every_matrix, axes=axes),
    )


def every_matrix(params: Tree, *, axes: Any) -> Tree:
    return {"embedding": axes, "layers": [{"norm": None, "q": axes} for _ in params["layers"]]}


def base_library(library: Any) -> Any:
    return optax if library is optax.contrib else library


def momentum_rmsprop(library: Any) -> Any:
    return library.rmsprop(0.01, 0.95, initial_scale=1.0, eps_in_sqrt=False, centered=True, momentum=0.9)


def bias_corrected_rmsprop(library: Any) -> Any:
    means = library.scale_by_rms(0.9, 1e-3, bias_correction=True)
    return library.chain(
        means, library.scale_by_stddev(0.9, 1e-3, 1.0, bias_correction=True), library.sgd(0.01)
    )


def adafactor(library: Any) -> Any:
    """Adafactor with factored matrices and every optional part."""
    options = {"min_dim_size_to_factor": 3, "momentum": 0.9, "dtype_momentum": None}
    return library.adafactor(warmup_cosine(library), weight_decay_rate=1e-3, **options)


def factored_rms(library: Any) -> Any:
    scale_by = library.scale_by_factored_rms(True, 0.75, 0, 3, decay_rate_fn=constant_decay)
    blocks = (library.clip_by_block_rms(0.9), library.scale_by_param_block_rms())
    return library.chain(scale_by, *blocks, library.sgd(0.1, 0.5))


def constant_decay(count: Any, rate: Any) -> Any:
    return 0 * count + rate


def lamb(library: Any, mask: Any) -> Any:
    return library.lamb(0.01, weight_decay=0.1, mask=mask)


def multi_steps(library: Any, k: Any, **options: Any) -> Any:
    return library.MultiSteps(library.adamw(0.03), k, **options)


def k_by_step(step: Any) -> Any:
    """2 mini-steps an update at first, then 3."""
    return 2 + (step > 20)


def skip_norm_above(library: Any, large: Callable) -> Any:
    skip = partial(large, max_squared_norm=70.0)
    return multi_steps(library, k_by_step, should_skip_update_fn=skip, accumulator_dtype=None)


def adam_without_norms(library: Any) -> Any:
    return library.chain(library.adam(0.2), library.freeze(norm_mask))


def adam_for_the_embedding(library: Any) -> Any:
    """The mask is a prefix of the params: optax's `selective_transform` takes no function."""
    return library.selective_transform(library.adam(0.2), freeze_mask={"embedding": False, "layers": True})


def ademamix(library: Any) -> Any:
    return library.ademamix(0.01, b3=0.99, alpha=2.0, weight_decay=0.1)


def normuon_for_layers() -> GradientTransformation:
    return optim.normuon(0.02, ns_steps=2, muon_weight_dimension_numbers=optim.hidden_matrices)


def reference_normuon(params: dict[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
    groups = [[p for path, p in params.items() if ("/q" in path) is muon] for muon in (True, False)]
    settings = {"lr": 0.02, "eps": 1e-8}
    return pytorch_optimizer.NorMuon(
        [
            {"params": groups[0], "use_muon": True, **settings},
            {"params": groups[1], "use_muon": False, **settings},
        ],
        ns_steps=2,
        foreach=False,
    )


def soap_of_short_sides() -> GradientTransformation:
    """A side of full rank: where two eigenvalues are 0, rounding decides the basis. test_soap.py has both sides."""
    return optim.soap(0.01, weight_decay=0.0, precondition_frequency=2, max_precond_dim=3)


def reference_soap(params: dict[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
    settings = {"precondition_frequency": 2, "max_precondition_dim": 3}
    return pytorch_optimizer.SOAP(params.values(), 0.01, weight_decay=0.0, **settings)


def cautious_lion() -> GradientTransformation:
    return optim.cautious(optim.lion(0.01, weight_decay=0.0))


def reference_lion(params: dict[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
    return pytorch_optimizer.Lion(params.values(), 0.01, cautious=True)


# Measured differences: 8e-7 at most in float32, 1.4e-15 in float64; 3e-8 with a schedule, as schedules are
# computed in float32. With a bfloat16 moment both libraries round, at different places, and drift 1.6e-2
# apart: see the tests of bfloat16 updates.
TABLE = (
    Row("sgd", lambda: optim.sgd(0.1), lambda: optax.sgd(0.1), float64=None),
    Row("sgd momentum", lambda: optim.sgd(0.05, 0.9), lambda: optax.sgd(0.05, 0.9)),
    Row(
        "sgd nesterov",
        lambda: optim.sgd(0.05, 0.9, nesterov=True),
        lambda: optax.sgd(0.05, 0.9, nesterov=True),
    ),
    Row("adam", lambda: optim.adam(0.01), lambda: optax.adam(0.01)),
    Row("adam nesterov", lambda: optim.adam(0.01, nesterov=True), lambda: optax.adam(0.01, nesterov=True)),
    Row("adam eps_root", lambda: optim.adam(0.01, eps_root=1e-6), lambda: optax.adam(0.01, eps_root=1e-6)),
    Row("adamw", lambda: optim.adamw(0.01, weight_decay=0.1), lambda: optax.adamw(0.01, weight_decay=0.1)),
    Row(
        "adamw rate",
        lambda: optim.adamw(warmup_cosine(optim)),
        lambda: optax.adamw(warmup_cosine(optax)),
        float64=None,
    ),
    Row(
        "adamw decay",
        lambda: optim.adamw(0.01, weight_decay=optim.linear_schedule(0.1, 0.0, 100)),
        lambda: optax.adamw(0.01, weight_decay=optax.linear_schedule(0.1, 0.0, 100)),
        float64=1e-7,
    ),
    Row(
        "adamw mask",
        lambda: optim.adamw(0.01, weight_decay=0.1, mask=optim.path_mask(exclude=("norm",))),
        lambda: optax.adamw(0.01, weight_decay=0.1, mask=optax_decay_mask),
        float64=None,
    ),
    Row(
        "adamw bfloat16 mu",
        lambda: optim.adamw(0.01, mu_dtype=torch.bfloat16),
        lambda: optax.adamw(0.01, mu_dtype=jnp.bfloat16),
        float32=0.02,
        float64=None,
    ),
    Row("lion", lambda: optim.lion(0.01, weight_decay=0.1), lambda: optax.lion(0.01, weight_decay=0.1)),
    Row(
        "lion refined",
        lambda: optim.chain(optim.scale_by_lion(mode="refined"), optim.sgd(0.1)),
        lambda: optax.chain(optax.scale_by_lion(mode="refined"), optax.sgd(0.1)),
    ),
    Row(
        "lion smooth",
        lambda: optim.chain(optim.scale_by_lion(mode="smooth", smooth_beta=2.0), optim.sgd(0.1)),
        lambda: optax.chain(optax.scale_by_lion(mode="smooth", smooth_beta=2.0), optax.sgd(0.1)),
    ),
    Row(
        "clip and adamw",
        lambda: optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(0.01)),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.01)),
        float64=None,
    ),
    Row(
        "clip the update",
        lambda: optim.chain(optim.scale_by_adam(), optim.clip_by_global_norm(1.0), optim.sgd(0.05)),
        lambda: optax.chain(optax.scale_by_adam(), optax.clip_by_global_norm(1.0), optax.sgd(0.05)),
        float32=2e-6,  # measured 1.01e-6, in nu; the params are 2.3e-7 apart
        float64=None,
        leafwise=False,
    ),
    Row(
        "clip by value",
        lambda: optim.chain(optim.clip(0.1), optim.sgd(0.1)),
        lambda: optax.chain(optax.clip(0.1), optax.sgd(0.1)),
        float64=None,
    ),
    Row(
        "apply_if_finite",
        lambda: optim.apply_if_finite(optim.adamw(0.01), 3),
        lambda: optax.apply_if_finite(optax.adamw(0.01), 3),
        float64=None,
    ),
    Row(
        "masked",
        lambda: masked_adam_then_sgd(optim, optim.path_mask("/q/")),
        lambda: masked_adam_then_sgd(optax, matrix_mask),
        float64=None,
    ),
    Row(
        "masked prefix",
        lambda: masked_adam_then_sgd(optim, {"embedding": True, "layers": False}),
        lambda: masked_adam_then_sgd(optax, {"embedding": True, "layers": False}),
        leafwise=False,
        float64=None,
    ),
    Row("partition", lambda: partition(optim), lambda: partition(optax), float64=None, leafwise=False),
    Row(
        "inject_hyperparams",
        lambda: optim.inject_hyperparams(optim.adamw)(learning_rate=warmup_cosine(optim), weight_decay=0.1),
        lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=warmup_cosine(optax), weight_decay=0.1),
        float64=None,
    ),
    Row(
        "reduce_on_plateau",
        lambda: optim.chain(optim.adam(0.05), plateau(optim)),
        lambda: optax.chain(optax.adam(0.05), plateau(optax.contrib)),
    ),
    Row(
        "ema",
        lambda: optim.chain(optim.ema(0.9), optim.sgd(0.1)),
        lambda: optax.chain(optax.ema(0.9), optax.sgd(0.1)),
    ),
    Row(
        "muon",
        lambda: muon_for_layers(optim, optim.hidden_matrices),
        lambda: muon_for_layers(optax.contrib, optax_matrices),
    ),
    Row(
        "muon for all",
        lambda: muon_for_all(optim),
        lambda: muon_for_all(optax.contrib),
        float64=1e-7,
        leafwise=False,
    ),
    Row("nadamw", lambda: optim.nadamw(0.01, weight_decay=0.1), lambda: optax.nadamw(0.01, weight_decay=0.1)),
    Row("rmsprop", lambda: optim.rmsprop(0.01), lambda: optax.rmsprop(0.01)),
    Row("rmsprop centered", lambda: momentum_rmsprop(optim), lambda: momentum_rmsprop(optax)),
    Row("rmsprop corrected", lambda: bias_corrected_rmsprop(optim), lambda: bias_corrected_rmsprop(optax)),
    Row("adagrad", lambda: optim.adagrad(0.5), lambda: optax.adagrad(0.5)),
    Row("adafactor", lambda: adafactor(optim), lambda: adafactor(optax), float64=None),
    Row("factored rms", lambda: factored_rms(optim), lambda: factored_rms(optax)),
    Row(
        "lamb",
        lambda: lamb(optim, optim.path_mask(exclude=("norm",))),
        lambda: lamb(optax, optax_decay_mask),
    ),
    Row("adamaxw", lambda: optim.adamaxw(0.01), lambda: optax.adamaxw(0.01)),
    Row("amsgrad", lambda: optim.amsgrad(0.01), lambda: optax.amsgrad(0.01)),
    Row("radam", lambda: optim.radam(0.05, b2=0.9), lambda: optax.radam(0.05, b2=0.9)),
    Row("ademamix", lambda: ademamix(optim), lambda: ademamix(optax.contrib), float32=None),
    Row("cautious lion", cautious_lion, reference=reference_lion),
    Row("cautious decay", lambda: optim.cautious_decay_adamw(0.01, weight_decay=0.1)),
    Row("normuon", normuon_for_layers, reference=reference_normuon),
    Row("soap", soap_of_short_sides, reference=reference_soap),
    Row("adan", lambda: optim.adan(0.01), lambda: optax.adan(0.01)),
    Row(
        "schedule_free_adamw",
        lambda: optim.schedule_free_adamw(0.03, b1=0.98, state_dtype=torch.float32),
        lambda: optax.contrib.schedule_free_adamw(0.03, b1=0.98, state_dtype=jnp.float32),
        float32=2e-6,  # measured 1.4e-6: the average is solved from the params; each is 7e-6 from float64
        float64=None,  # its iterates are float32 here; tests/pure/optim has the formula
    ),
    Row(
        "freeze",
        lambda: adam_without_norms(optim),
        lambda: adam_without_norms(optax),
        float64=None,
        leafwise=False,
    ),
    Row(
        "selective_transform",
        lambda: adam_for_the_embedding(optim),
        lambda: adam_for_the_embedding(optax),
        float64=None,
        leafwise=False,
    ),
    Row(
        "zero_nans",
        lambda: optim.chain(optim.zero_nans(), optim.sgd(0.1)),
        lambda: optax.chain(optax.zero_nans(), optax.sgd(0.1)),
        float64=None,
    ),
    Row(
        "MultiSteps",
        lambda: skip_norm_above(optim, optim.skip_large_updates),
        lambda: skip_norm_above(optax, optax.transforms.skip_large_updates),
        leafwise=False,
    ),
    Row(
        "MultiSteps sum",
        lambda: multi_steps(optim, 3, use_grad_mean=False, should_skip_update_fn=optim.skip_not_finite),
        lambda: multi_steps(optax, 3, use_grad_mean=False, should_skip_update_fn=optax.skip_not_finite),
        float64=None,
        leafwise=False,
    ),
)
for_every_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
for_every_twin = pytest.mark.parametrize("row", [r for r in TABLE if r.peer], ids=lambda row: row.name)


def random_arrays(seed: int, *leading: int, layers: int = 1) -> Tree:
    """A tree with an embedding, and a norm and a matrix in each layer, as float64 arrays."""
    rng = np.random.default_rng(seed)

    def layer() -> Tree:
        return {"norm": rng.normal(size=(*leading, 4)), "q": rng.normal(size=(*leading, 4, 3))}

    return {"embedding": rng.normal(size=(*leading, 6, 4)), "layers": [layer() for _ in range(layers)]}


def tensors(values: Tree, dtype: torch.dtype = torch.float32) -> Tree:
    return tree.map(lambda x: torch.as_tensor(x).to(dtype, copy=True), values)


def extra_arguments(grads: Tree) -> dict[str, Tensor]:
    """Extra arguments that a training step passes to its optimizer."""
    return {"grad_norm": tree.norm(grads), "finite": optim.all_finite(grads), "value": torch.tensor(1.5)}


def run_updates(
    row: Row, updates: int, dtype: torch.dtype = torch.float32, layers: int = 1
) -> tuple[GradientTransformation, Tree, Tree]:
    """Run some updates, so that moments and counts are not zero; return (optimizer, params, state)."""
    opt, params = row.ours(), tensors(random_arrays(0, layers=layers), dtype)
    state = opt.init(params)
    for i in range(updates):
        grads = tensors(random_arrays(i + 1, layers=layers), dtype)
        steps, state = opt.update(grads, state, params, **extra_arguments(grads))
        params = optim.apply_updates(params, steps)
    return opt, params, state


def close(a: Tree, b: Tree, tolerance: float) -> bool:
    """Test for equal structure and dtypes, and errors of at most `tolerance` times each leaf's maximum."""
    if tree.structure(a) != tree.structure(b):
        return False
    return all(leaf_close(x, y, tolerance) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


def leaf_close(x: Tensor, y: Tensor, tolerance: float) -> bool:
    if x.dtype != y.dtype or not x.is_floating_point():
        return torch.equal(x, y)
    size = y[y.isfinite()].double().abs().max() if y.isfinite().any() else 0.0
    return bool(((x == y) | ((x - y).double().abs() <= tolerance * size)).all())


@for_every_row
def test_update_leaves_its_arguments_and_repeats_its_result(row: Row) -> None:
    opt, params, state = run_updates(row, 2)
    grads = tensors(random_arrays(9))
    arguments = (grads, state, params, extra_arguments(grads))
    before = tree.clone(arguments)
    first = opt.update(*arguments[:3], **arguments[3])
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(before), tree.leaves(arguments), strict=True))
    again = opt.update(*arguments[:3], **arguments[3])
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(first), tree.leaves(again), strict=True))


@for_every_row
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_update_keeps_structures_and_dtypes(row: Row, dtype: torch.dtype) -> None:
    opt, params, state = run_updates(row, 1, dtype)
    steps, new = opt.update(tensors(random_arrays(9), dtype), state, params, value=torch.tensor(1.0))
    for old, now in ((params, steps), (state, new), (opt.init(params), state)):
        assert tree.structure(old) == tree.structure(now)
        assert [x.dtype for x in tree.leaves(old)] == [x.dtype for x in tree.leaves(now)]


@for_every_row
@pytest.mark.parametrize("name", ["embedding", "layers/0/norm", "layers/0/q"])
def test_gradients_of_another_shape_are_refused(row: Row, name: str) -> None:
    """A gradient [3, 1] of a parameter [3, 2] would be broadcast into every column."""
    opt, params, state = run_updates(row, 1)
    grads = tensors(random_arrays(9))
    one_column = tree.map_with_path(lambda path, g: g[..., :1] if path == name else g, grads)
    with pytest.raises(ValueError, match=f"'{name}' has the shapes .* nothing is broadcast"):
        opt.update(one_column, state, params, value=torch.tensor(1.0))


@for_every_row
def test_no_two_leaves_of_a_state_share_storage(row: Row) -> None:
    params = tensors(random_arrays(0))
    pointers = [x.data_ptr() for x in tree.leaves((params, row.ours().init(params)))]
    assert len(set(pointers)) == len(pointers)


@for_every_row
def test_no_function_is_a_closure(row: Row) -> None:
    """All are partials of module-level functions, so a fingerprint sees every hyperparameter."""
    opt = row.ours()
    for function in functions(opt):
        plain = inspect.unwrap(function)
        assert plain.__closure__ is None
        assert "<" not in plain.__qualname__


def functions(x: Any) -> Iterator[Callable]:
    """Yield the functions in a transformation, also in partials, tuples and dicts (masks, schedules)."""
    if isinstance(x, partial):
        yield x.func
        x = (x.args, x.keywords)
    if isinstance(x, dict):
        x = tuple(x.values())
    if isinstance(x, tuple | list):
        for part in x:
            yield from functions(part)
    elif callable(x) and not isinstance(x, Tensor):
        yield x


@for_every_row
def test_leafwise_updates_of_some_leaves_equal_those_in_the_whole_tree(row: Row) -> None:
    """Bit for bit; and `is_leafwise` knows for which optimizers this holds."""
    opt, params, state = run_updates(row, 3, layers=2)
    assert optim.is_leafwise(opt) is row.leafwise
    if not row.leafwise:
        return
    grads = tensors(random_arrays(9, layers=2))
    extra = extra_arguments(grads)
    whole = (*opt.update(grads, state, params, **extra),)
    names = tree.paths(params)
    for kept in (
        {"embedding"},
        {"layers/0/norm", "layers/0/q"},
        {"layers/1/norm", "layers/1/q"},
        {"layers/1/q"},
    ):
        select = partial(select_leaves, kept=kept, names=names)
        assert close(opt.update(select(grads), select(state), select(params), **extra), select(whole), 0)


NOT_ELEMENTWISE = {
    "clip the update": "reads the norm of all updates",
    "muon": "multiplies matrices",
    "muon for all": "multiplies matrices",
    "adafactor": "keeps means of rows and columns",
    "factored rms": "keeps means of rows and columns, and reads the mean square of a leaf",
    "lamb": "reads the norm of a leaf",
    "cautious lion": "counts signs in a leaf",
    "normuon": "multiplies matrices",
    "soap": "multiplies matrices",
    "freeze": "its mask is a function without a mark",
    "zero_nans": "keeps a flag of each leaf",
    "MultiSteps": "may skip a mini-step for the norm of all gradients",
    "MultiSteps sum": "may skip a mini-step for a gradient that is not finite",
}
"""Why an optimizer must see whole leaves; every other one is marked as elementwise, see the next law."""


@for_every_row
def test_elementwise_updates_of_some_rows_equal_those_of_whole_leaves(row: Row) -> None:
    """Bit for bit, for leaves of 5, 1 and 3 rows on 2 and 4 processes; and `is_elementwise` knows for which."""
    opt = row.ours()
    assert optim.is_elementwise(opt) is (row.name not in NOT_ELEMENTWISE)
    if row.name in NOT_ELEMENTWISE:
        return
    params, *grads = [odd_rows(seed) for seed in range(4)]
    state = opt.init(params)
    for g in grads[:2]:
        steps, state = opt.update(g, state, params, **extra_arguments(g))
        params = optim.apply_updates(params, steps)
    extra = extra_arguments(grads[2])
    whole = (*opt.update(grads[2], state, params, **extra),)
    for size in (2, 4):
        for rank in range(size):
            cut = partial(cut_leaves, group=Group(rank, size, None))
            assert close(opt.update(cut(grads[2]), cut(state), cut(params), **extra), cut(whole), 0)
            assert close(opt.init(cut(params)), cut(opt.init(params)), 0)


def odd_rows(seed: int) -> Tree:
    """A tree like `random_arrays`, of leaves with 5, 1 and 3 rows, in float32."""
    rng = np.random.default_rng(seed)
    layer = {"norm": rng.normal(size=(1,)), "q": rng.normal(size=(3, 2))}
    return tensors({"embedding": rng.normal(size=(5, 4)), "layers": [layer]})


def cut_leaves(whole: Tree, *, group: Group) -> Tree:
    """One process's rows of each leaf; leaves [] stay."""
    return tree.map(lambda x: x[slice(*own_rows(x.shape[0], group))] if x.ndim else x, whole)


def select_leaves(whole: Tree, *, kept: set[str], names: list[str]) -> Tree:
    """Keep the leaves of the parameters in `kept`, and those of no parameter (counts).

    The other leaves become None, and items of lists that then have no leaf are dropped.
    """

    def owner(path: str) -> str | None:
        """The parameter that a path in a state ends with, as moments are trees like the parameters."""
        return next((name for name in names if f"/{path}".endswith(f"/{name}")), None)

    def select(path: str, leaf: Tensor) -> Tensor | None:
        return leaf if owner(path) in (*kept, None) else None

    return drop_empty_items(tree.map_with_path(select, whole))


def drop_empty_items(node: Tree) -> Tree:
    if isinstance(node, dict):
        return {k: drop_empty_items(v) for k, v in node.items()}
    if isinstance(node, list):
        not_empty = [x for x in node if tree.leaves(x)]
        return [drop_empty_items(x) for x in not_empty or node[:1]]
    if isinstance(node, tuple):
        items = map(drop_empty_items, node)
        return type(node)(*items) if hasattr(node, "_fields") else tuple(items)
    return node


@for_every_row
def test_eager_equals_compiled(row: Row) -> None:
    opt, params, state = run_updates(row, 2)
    grads = tensors(random_arrays(9))
    torch._dynamo.reset()
    compiled = torch.compile(opt.update, backend="aot_eager", fullgraph=True)
    assert close(
        compiled(grads, state, params, **extra_arguments(grads)),
        opt.update(grads, state, params, **extra_arguments(grads)),
        1e-6,
    )


@pytest.mark.slow
def test_eager_equals_inductor() -> None:
    """And no vectorised loop over elements computes the powers of the bias correction."""
    row = Row(
        "",
        lambda: optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(warmup_cosine(optim))),
        lambda: optax.sgd(0.1),
    )
    opt, params, state = run_updates(row, 2)
    grads = tensors(random_arrays(9))
    torch._dynamo.reset()
    compiled, code = run_and_get_code(
        torch.compile(opt.update, fullgraph=True), grads, state, params, **extra_arguments(grads)
    )
    assert close(compiled, opt.update(grads, state, params, **extra_arguments(grads)), 1e-5)
    if grads["embedding"].device.type == "cpu":
        loops = [part for part in "".join(code).split("for(int64_t")[1:] if "Vectorized" in part]
        assert loops
        assert not any("pow(" in loop for loop in loops)


@for_every_row
def test_vmap_equals_a_loop(row: Row) -> None:
    opt, count = row.ours(), 3
    params, grads = tensors(random_arrays(0, count)), tensors(random_arrays(1, count))
    state = torch.vmap(opt.init)(params)
    value = torch.arange(1.0, 4.0)

    def step(g: Tree, s: Tree, p: Tree, value: Tensor) -> tuple[Tree, Tree]:
        return opt.update(g, s, p, value=value)

    mapped = step_twice(torch.vmap(step), grads, state, params, value)
    looped = [
        step_twice(step, *(tree.map(lambda x, i=i: x[i], t) for t in (grads, state, params, value)))
        for i in range(count)
    ]
    assert close(mapped, tree.stack(looped), 1e-5)


def step_twice(step: Callable, grads: Tree, state: Tree, params: Tree, value: Tensor) -> tuple[Tree, Tree]:
    _, state = step(grads, state, params, value)
    return step(grads, state, params, value)


@pytest.mark.parametrize(
    ("row", "precision"),
    [
        (row, precision)
        for row in TABLE
        for precision in ("float32", "float64")
        if row.peer and getattr(row, precision)
    ],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_training_for_200_steps_equals_optax(row: Row, precision: str) -> None:
    """Noisy gradients of a quadratic; params and states, as flax serializes them, are compared at the end."""
    with jax.enable_x64(precision == "float64"):
        ours, theirs = trajectories(row, getattr(torch, precision), getattr(jnp, precision))
    tolerance = getattr(row, precision)
    flat = [
        jax.tree_util.tree_flatten_with_path(flax.serialization.to_state_dict(run))[0]
        for run in (ours, theirs)
    ]
    assert [path for path, _ in flat[0]] == [path for path, _ in flat[1]]
    for (path, a), (_, b) in zip(*flat, strict=True):
        scale = max(1.0, float(np.abs(b).max()))
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        assert np.abs(a.astype(float) - np.asarray(b, float)).max() <= tolerance * scale, path


def trajectories(row: Row, dtype: torch.dtype, peer_dtype: Any) -> tuple[Any, Any]:
    """Run 200 updates of ours and of the peer's; return (params, state) of each, leaves as numpy arrays."""
    start, target, noise = random_arrays(0), random_arrays(1), random_arrays(2, STEPS)
    opt, params = row.ours(), tensors(start, dtype)
    state = opt.init(params)
    peer = optax.with_extra_args_support(row.peer())
    peer_params = jax.tree.map(lambda x: jnp.asarray(x, peer_dtype), start)
    peer_state = flax.serialization.from_state_dict(
        peer.init(peer_params), flax.serialization.to_state_dict(arrays(state))
    )

    def peer_step(carry: Any, noise: Any) -> tuple[Any, None]:
        params, state = carry
        error = jax.tree.map(lambda p, t: p - jnp.asarray(t, p.dtype), params, target)
        grads = jax.tree.map(lambda f, n: f + n.astype(f.dtype), error, noise)
        value = sum(jnp.sum(f * f) for f in jax.tree.leaves(error))
        steps, state = peer.update(grads, state, params, value=value)
        return (optax.apply_updates(params, steps), state), None

    goal = tensors(target, dtype)
    for i in range(STEPS):
        error = tree.map(Tensor.sub, params, goal)
        grads = tree.map(lambda f, n, i=i: f + torch.tensor(n[i], dtype=dtype), error, noise)
        value = sum((f * f).sum() for f in tree.leaves(error))
        steps, state = opt.update(grads, state, params, value=value)
        params = optim.apply_updates(params, steps)
    theirs, _ = jax.lax.scan(peer_step, (peer_params, jax.tree.map(jnp.asarray, peer_state)), noise)
    return arrays((params, state)), jax.tree.map(np.asarray, theirs)


@pytest.mark.parametrize("row", [r for r in TABLE if r.reference], ids=lambda row: row.name)
def test_training_for_40_steps_equals_the_reference(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64; its Newton-Schulz products are in bfloat16 otherwise."""
    wide = partial(normuon.zero_power_via_newton_schulz_5, dtype=torch.float64)
    monkeypatch.setattr(normuon, "zero_power_via_newton_schulz_5", wide)
    start, target, noise = random_arrays(0), random_arrays(1), random_arrays(2, 40)
    opt, params, goal = row.ours(), tensors(start, torch.float64), tensors(target, torch.float64)
    state = opt.init(params)
    theirs = {
        path: torch.nn.Parameter(x.clone())
        for path, x in zip(tree.paths(params), tree.leaves(params), strict=True)
    }
    reference = row.reference(theirs)
    for i in range(40):
        grads = tree.map(lambda p, t, n, i=i: p - t + torch.tensor(n[i]), params, goal, noise)
        steps, state = opt.update(grads, state, params)
        params = optim.apply_updates(params, steps)
        for path, p, t, n in zip(theirs, *(tree.leaves(x) for x in (theirs, goal, noise)), strict=True):
            theirs[path].grad = (p - t + torch.tensor(n[i])).detach()
        reference.step()
    for ours, other in zip(tree.leaves(params), theirs.values(), strict=True):
        assert leaf_close(ours, other.detach(), 1e-5)


def arrays(values: Tree) -> Tree:
    """Convert tensors to numpy arrays; bfloat16 to JAX's bfloat16, as numpy has none."""

    def to_numpy(x: Tensor) -> np.ndarray:
        if x.dtype == torch.bfloat16:
            return np.asarray(jnp.asarray(x.float().numpy(), jnp.bfloat16))
        return x.numpy()

    return tree.map(to_numpy, values)


@for_every_twin
def test_a_state_is_exchanged_with_optax_in_both_directions(row: Row) -> None:
    """flax reads our bytes into optax's classes; after one more update there, we read its bytes."""
    opt, params, state = run_updates(row, 3)
    grads = tensors(random_arrays(9))
    peer = optax.with_extra_args_support(row.peer())
    peer_params, peer_grads = jax.tree.map(jnp.asarray, (arrays(params), arrays(grads)))
    peer_state = flax.serialization.from_bytes(peer.init(peer_params), serial.to_bytes(state))
    _, theirs = peer.update(
        peer_grads, jax.tree.map(jnp.asarray, peer_state), peer_params, value=jnp.float32(1.5)
    )
    back = serial.from_bytes(state, flax.serialization.to_bytes(theirs))
    _, expected = opt.update(grads, state, params, value=torch.tensor(1.5))
    assert close(back, expected, 0.02 if row.name == "adamw bfloat16 mu" else 1e-6)


@for_every_row
def test_bfloat16_updates_are_close_to_float64(row: Row) -> None:
    """With bfloat16 params and gradients, the sum of 20 updates is within one bfloat16 step (2⁻⁷) of
    float64's."""
    rounded, exact = (sum_updates(row, dtype) for dtype in (torch.bfloat16, torch.float64))
    assert tree.norm(tree.map(Tensor.sub, rounded, exact)) < 2**-7 * tree.norm(exact)


@pytest.mark.parametrize("name", ["adamw", "sgd momentum", "lion refined"])
def test_bfloat16_updates_are_closer_to_exact_than_in_optax(name: str) -> None:
    row = next(row for row in TABLE if row.name == name)
    rounded, exact = (sum_updates(row, dtype) for dtype in (torch.bfloat16, torch.float64))
    peer = optax.with_extra_args_support(row.peer())
    params, *grads = (
        jax.tree.map(jnp.asarray, arrays(tensors(random_arrays(i), torch.bfloat16))) for i in range(21)
    )
    state, total = peer.init(params), tree.zeros_like(exact)
    update = jax.jit(peer.update)
    for g in grads:
        steps, state = update(g, state, params)
        total = tree.map(lambda t, u: t + torch.tensor(np.asarray(u, float)), total, steps)
    ours, theirs = (tree.norm(tree.map(Tensor.sub, x, exact)) for x in (rounded, total))
    assert ours <= theirs


def sum_updates(row: Row, dtype: torch.dtype) -> Tree:
    """Sum 20 updates in float64; params and gradients have bfloat16 values, stored in `dtype`."""
    params, *grads = (tensors(tensors(random_arrays(i), torch.bfloat16), dtype) for i in range(21))
    opt = row.ours()
    state, total = opt.init(params), tree.zeros_like(params, dtype=torch.float64)
    for g in grads:
        steps, state = opt.update(g, state, params, value=torch.tensor(1.5))
        total = tree.map(Tensor.add, total, tree.cast(steps, torch.float64))
    return total


@for_every_row
def test_sixty_steps_on_a_quadratic_come_closer_to_its_minimum(row: Row) -> None:
    opt, target = row.ours(), tensors(random_arrays(1))
    params = tensors(random_arrays(0))
    state = opt.init(params)
    start = tree.norm(tree.map(Tensor.sub, params, target))
    for _ in range(60):
        grads = tree.map(Tensor.sub, params, target)
        steps, state = opt.update(grads, state, params, value=tree.norm(grads))
        params = optim.apply_updates(params, steps)
    assert tree.norm(tree.map(Tensor.sub, params, target)) < 0.8 * start
