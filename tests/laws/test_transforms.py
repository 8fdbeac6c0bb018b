"""The laws of transforms: every part under every transform of torch.func, autograd and forward mode.

A part is a function of a tree of float64 tensors. Its derivative by one transform is compared with that by
another, which computes it by other code: a directional derivative with the gradient's inner product, one
Hessian product with the others. A new stage, loss or optimizer is one row of PARTS; the command
`python benchmarks/transforms.py` prints the table.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pure import optim, random, tree
from pure.adapt.lora import lora
from pure.adapt.qlora import quantize_layers
from pure.nn.transformer import transformer
from pure.transform.curvature import cg, ggnvp, hvp
from pure.transform.ghost import per_sample_norms
from pure.transform.grad import grad
from pure.transform.per_sample import per_sample_grad
from pure.transform.remat import remat
from pure.transform.sketch import projected
from pure.types import Model, Tree
from stages.audit import EXACT, divergences
from stages.dpo import dpo
from stages.grpo import grpo
from stages.kto import kto
from stages.ppo import ppo
from stages.pretrain import pretrain
from stages.reward import reward
from stages.rollout import Rollouts
from stages.sft import sft
from stages.stage import Stage, examples_of, loss_of
from stages.unroll import unroll
from tests.laws.test_stages import (
    DROPOUT,
    ROLLOUT_OPTIONS,
    answers,
    pair_batch,
    rollout_batch,
    small,
    text_batch,
)

TOLERANCE = 1e-9
Function = Callable[[list[Tensor]], Tensor]


class Part(NamedTuple):
    """A function of float64 leaves, and where it is differentiated.

    Fields:
        function: leaves -> [] float64.
        point: the leaves.
    """

    function: Function
    point: list[Tensor]


def weigh(result: Tree) -> Tensor:
    """Reduce a tree to one number, in which every element has a weight of its own."""
    flat = torch.cat([x.flatten() for x in tree.leaves(result) if x.is_floating_point()]).double()
    return (flat * torch.arange(len(flat)).cos()).sum()


def part_of(function: Callable[[Tree], Tree], params: Tree) -> Part:
    """Make a Part of a function of a tree, at a point near the params where no leaf is 0."""
    values, spec = tree.flatten(tree.cast(params, torch.float64))
    noise = [0.05 * random.normal(random.key(70 + i), x.shape).double() for i, x in enumerate(values)]
    point = [x + n for x, n in zip(values, noise, strict=True)]
    return Part(lambda leaves: weigh(function(tree.unflatten(spec, leaves))), point)


def model_of(changes: dict | None = None, wrap: Callable | None = None, backend: str = "naive") -> Model:
    config = small(**{"num_hidden_layers": 1, **(changes or {})})
    return transformer(config, wrap_block=wrap, backend=backend)


def forward(changes: dict | None = None, backend: str = "naive") -> Part:
    model = model_of(changes, backend=backend)
    return part_of(lambda p: model.forward(p, text_batch(0)["tokens"][:3]), model.init(random.key(0)))


def decoding() -> Part:
    model, tokens = model_of(), text_batch(0)["tokens"][:3]

    def decode(params: Tree) -> Tensor:
        first, cache = model.decode(params, tokens[:, :4], model.cache(3, 6, dtype=torch.float64))
        return torch.cat([first, model.decode(params, tokens[:, 4:], cache)[0]], 1)

    return part_of(decode, model.init(random.key(0)))


def loss_part(made: Stage, batch: Tree) -> Part:
    """The loss of a stage, as a function of its params."""
    loss, key = loss_of(made), random.key(3)
    batch = {"batch_position": torch.arange(len(tree.leaves(batch)[0])), **batch}
    return part_of(lambda p: loss(p, batch, key)[0], made.init(random.key(0)).params)


def online_batch(made: Stage) -> Tree:
    """The completions of a finished rollout, one a row."""
    data = rollout_batch(0)
    state = made.init(random.key(0))
    return examples_of(made, state, Rollouts(*(data[name] for name in Rollouts._fields)), data["rewards"])


def stage_loss(make: Callable, batch: Callable, changes: dict | None = None, **options: Any) -> Part:
    model = model_of(changes, options.pop("wrap", None))
    if options.get("reference"):
        options["reference"] = tree.cast(model.init(random.key(77)), torch.float64)
    made = make(model, optim.sgd(0.1), **options)
    return loss_part(made, online_batch(made) if made.parts else batch(0))


def exact_divergence() -> Part:
    """The divergence of the policy from a reference, over the vocabulary."""
    model = model_of()
    made = grpo(model, optim.sgd(0.1), **ROLLOUT_OPTIONS | {"reference": None})
    loss = divergences(model, tree.cast(model.init(random.key(77)), torch.float64))[EXACT]
    batch = online_batch(made)
    return part_of(lambda p: loss(p, batch, None)[0], model.init(random.key(0)))


def adapted_loss(four_bits: bool = False, **options: Any) -> Part:
    model = model_of()
    base = tree.cast(model.init(random.key(77)), torch.float64)
    base = quantize_layers(base) if four_bits else base
    made = sft(lora(model, base, rank=2, targets=("v", "down"), **options), optim.sgd(0.1))
    return loss_part(made, text_batch(0))


def updates(optimizer: optim.GradientTransformation, zeros: bool = False) -> Part:
    """Updates as a function of gradients, after two steps; or, with `zeros`, the first ones, at gradients of 0."""
    params = {
        "w": random.normal(random.key(0), (4, 3)).double(),
        "b": random.normal(random.key(1), (3,)).double(),
    }
    first, grads = (
        tree.map(lambda x, i=i: random.normal(random.key(i), x.shape).double(), params) for i in (3, 2)
    )
    value, state = {"value": torch.tensor(1.0)}, optimizer.init(params)
    for g in () if zeros else (first, grads):
        state = optimizer.update(g, state, params, **value)[1]
    part = part_of(lambda g: optimizer.update(g, state, params, **value)[0], grads)
    return part._replace(point=[torch.zeros_like(x) for x in part.point]) if zeros else part


def step(make: Callable, batch: Callable, **options: Any) -> Part:
    """Params after a step, as a function of the params before."""
    model = model_of()
    if options.get("reference"):
        options["reference"] = model.init(random.key(77))
    made = make(model, optim.adamw(1e-2, eps=1e-3), **options)
    state = made.init(random.key(0))
    state = made.init(random.key(0), tree.cast(state.params, torch.float64))
    data = batch(0)
    return part_of(lambda p: made.step(state._replace(params=p), data).params, state.params)


def weighted_step() -> Part:
    """Params after a step, as a function of the weights of its rows."""
    made = sft(model_of(), optim.adamw(1e-2, eps=1e-3))
    state = made.init(random.key(0), tree.cast(made.init(random.key(0)).params, torch.float64))
    return part_of(lambda w: made.step(state, {**text_batch(0), "weights": w}).params, torch.ones(8))


def unrolled() -> Part:
    """Params after two steps that are computed again in the backward pass, as a function of the params."""
    made = sft(model_of(), optim.adamw(1e-2, eps=1e-3))
    state = made.init(random.key(0), tree.cast(made.init(random.key(0)).params, torch.float64))
    batches = [text_batch(0), text_batch(1)]
    return part_of(lambda p: unroll(made, 2)(state._replace(params=p), batches).params, state.params)


def per_sample() -> Part:
    """The gradients of all rows, as a function of the params."""
    model = model_of()
    loss = loss_of(pretrain(model, optim.sgd(0.1)))
    return part_of(
        lambda p: per_sample_grad(loss)(p, text_batch(0), random.key(0)), model.init(random.key(0))
    )


def curvature(product: Callable[..., Tree]) -> Part:
    """A product with the second derivatives of a small network, as a function of its params."""
    params = {"w": random.normal(random.key(0), (3, 2)), "v": random.normal(random.key(1), (2, 3))}
    x, vector = (
        random.normal(random.key(2), (4, 2)).double(),
        tree.map(lambda x: torch.ones_like(x).double(), params),
    )

    def outputs(p: Tree) -> Tensor:
        return (x @ p["w"].T).tanh() @ p["v"].T

    return part_of(lambda p: product(outputs, lambda z: z.logsumexp(1).sum(), p, vector), params)


OPTIMIZERS = {
    "lion": optim.lion(0.1),
    "muon": optim.muon(0.1, ns_dtype=torch.float64),
    "clip, then adam": optim.chain(optim.clip_by_global_norm(0.5), optim.adam(0.1)),
    "sgd, momentum": optim.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": optim.adamw(0.1, weight_decay=0.1),
    "nadamw": optim.nadamw(0.1),
    "amsgrad": optim.amsgrad(0.1),
    "radam": optim.radam(0.1, b2=0.9),
    "adamaxw": optim.adamaxw(0.1),
    "adan": optim.adan(0.1),
    "ademamix": optim.ademamix(0.1, b3=0.9),
    "cautious_adamw": optim.cautious_adamw(0.1),
    "cautious_decay_adamw": optim.cautious_decay_adamw(0.1, weight_decay=0.1),
    "lion, smooth": optim.scale_by_lion(mode="smooth"),
    "rmsprop, centered": optim.rmsprop(0.1, centered=True, momentum=0.9),
    "adagrad": optim.adagrad(0.1),
    "adafactor": optim.adafactor(0.1, min_dim_size_to_factor=3, momentum=0.9),
    "lamb": optim.lamb(0.1),
    "schedule_free_adamw": optim.schedule_free_adamw(0.1),
    "normuon": optim.normuon(0.1, ns_dtype=torch.float64),
    "soap": optim.soap(0.1),
    "apply_if_finite, ema": optim.apply_if_finite(optim.chain(optim.ema(0.9), optim.sgd(0.1)), 3),
    "MultiSteps, reduce_on_plateau": optim.MultiSteps(
        optim.chain(optim.sgd(0.1, momentum=0.9), optim.reduce_on_plateau()), 3
    ),
}
"""The third update is differentiated by its gradient."""


def projections() -> Part:
    """The sketches of the gradients of three rows, as a function of the params that are differentiated."""
    model = model_of()
    loss = loss_of(pretrain(model, optim.sgd(0.1)))
    rows = {name: x[:3] for name, x in text_batch(0).items()}
    compute = projected(loss, random.key(9), 4, where=lambda path, x: "attention" in path)
    return part_of(lambda p: compute(p, rows, random.key(0)), model.init(random.key(0)))


def ghost_norms() -> Part:
    """The norms of the gradients of all rows, as a function of the params."""
    model = model_of({"hidden_size": 4, "num_attention_heads": 1, "num_key_value_heads": 1})
    loss = loss_of(pretrain(model, optim.sgd(0.1)))
    batch = {name: x[:2] for name, x in text_batch(0).items()}
    return part_of(lambda p: per_sample_norms(loss)(p, batch, random.key(0)), model.init(random.key(0)))


ONLINE = ROLLOUT_OPTIONS | {"beta": 0.04}
PARTS: dict[str, Callable[[], Part]] = {
    "forward": forward,
    "forward, flash attention": partial(forward, backend="flash"),
    "forward, LayerNorm, sinusoidal positions, biases": partial(
        forward, {"use_rms_norm": False, "use_rope": False, "attention_bias": True, "mlp_bias": True}
    ),
    "decode with a cache": decoding,
    "pretrain, dropout": partial(stage_loss, pretrain, text_batch, DROPOUT),
    "sft, chunk and remat": partial(stage_loss, sft, text_batch, chunk=7, wrap=remat),
    "reward": partial(stage_loss, reward, pair_batch),
    "dpo": partial(stage_loss, dpo, pair_batch, reference=True),
    "dpo ipo, chunk": partial(stage_loss, dpo, pair_batch, reference=True, variant="ipo", chunk=3),
    "orpo": partial(stage_loss, dpo, pair_batch, variant="orpo"),
    "kto": partial(stage_loss, kto, answers, reference=True),
    "grpo": partial(stage_loss, grpo, rollout_batch, **ONLINE),
    "kl, exact": exact_divergence,
    "ppo": partial(stage_loss, ppo, rollout_batch, value_weight=1.0, **ROLLOUT_OPTIONS),
    "LoRA": adapted_loss,
    "DoRA, dropout": partial(adapted_loss, use_dora=True, dropout=0.2),
    "QLoRA": partial(adapted_loss, four_bits=True),
    "per_sample_grad": per_sample,
    "ghost norms": ghost_norms,
    "projected": projections,
    "hvp": partial(curvature, lambda outputs, head, p, v: hvp(lambda q: head(outputs(q)))(p, v)),
    "ggnvp, two steps of cg": partial(
        curvature,
        lambda outputs, head, p, v: cg(partial(ggnvp(outputs, head), p), v, damping=0.5, steps=2).x,
    ),
    **{name: partial(updates, optimizer) for name, optimizer in OPTIMIZERS.items()},
    "step of sft": partial(step, sft, text_batch),
    "step of sft, by the weights of its rows": weighted_step,
    "step of dpo": partial(step, dpo, pair_batch, reference=True),
    "step of grpo": partial(step, grpo, rollout_batch, **ROLLOUT_OPTIONS | {"score": None}),
    "two steps of sft, unrolled": unrolled,
    "step of ppo": partial(step, ppo, rollout_batch, epochs=1, **ROLLOUT_OPTIONS),
}
every_part = pytest.mark.parametrize("name", PARTS)


@cache
def built(name: str) -> Part:
    return PARTS[name]()


@cache
def gradient(name: str) -> tuple[Tensor, ...]:
    """By autograd, in plain eager code: what the other transforms are compared with."""
    part = built(name)
    leaves = [x.clone().requires_grad_() for x in part.point]
    return torch.autograd.grad(part.function(leaves), leaves, allow_unused=True, materialize_grads=True)


def direction(name: str, seed: int = 0) -> list[Tensor]:
    return [
        random.normal(random.key(90 + i + 50 * seed), x.shape).double()
        for i, x in enumerate(built(name).point)
    ]


def inner(a: Any, b: Any) -> Tensor:
    return sum((x * y).sum() for x, y in zip(a, b, strict=True))


def jvp(function: Callable, point: list[Tensor], tangents: list[Tensor]) -> Any:
    return torch.func.jvp(function, (point,), (tangents,))[1]


def assert_near(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    """Compare two trees by the distance of all their numbers, relative to the expected ones."""
    a, b = (torch.cat([x.flatten() for x in tree.leaves(t)]) for t in (found, expected))
    assert (a - b).norm() <= tolerance * b.norm() + 1e-12, f"{(a - b).norm() / b.norm():.1e} apart"


FIRST: dict[str, Callable[[Part], Any]] = {
    "grad": lambda part: grad(part.function)(part.point),
    "func.grad": lambda part: torch.func.grad(part.function)(part.point),
    "vjp": lambda part: torch.func.vjp(part.function, part.point)[1](torch.ones((), dtype=torch.float64))[0],
    "jacrev": lambda part: torch.func.jacrev(part.function)(part.point),
    "vmap of grad": lambda part: [
        g[1]
        for g in torch.func.vmap(grad(part.function))([torch.stack([2 * x, x, 0.5 * x]) for x in part.point])
    ],
}
DIRECTIONAL: dict[str, Callable[[Function, list[Tensor], list[Tensor]], Any]] = {
    "jvp": jvp,
    "vmap of jvp": lambda f, x, t: torch.func.vmap(partial(jvp, f, x))([torch.stack([u, -u]) for u in t])[0],
}
HESSIAN: dict[str, Callable[[Function, list[Tensor], list[Tensor]], Any]] = {
    "grad of grad": lambda f, x, t: grad(lambda y: inner(grad(f)(y), t))(x),
    "func.grad of func.grad": lambda f, x, t: torch.func.grad(lambda y: inner(torch.func.grad(f)(y), t))(x),
    "grad of jvp": lambda f, x, t: grad(lambda y: jvp(f, y, t))(x),
    "jvp of grad": lambda f, x, t: jvp(grad(f), x, t),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_has_finite_derivatives_where_all_gradients_are_0(name: str) -> None:
    """As those of LoRA's `a` are at first: one NaN makes a whole meta-gradient NaN. The state is the first one."""
    part = PARTS[name](zeros=True)
    slope = torch.func.grad(part.function)(part.point)
    along = jvp(lambda x: torch.func.grad(part.function)(x), part.point, direction(name))
    assert all(x.isfinite().all() for x in (*slope, *along))


LINEARIZED = ("sft, chunk and remat", "adamw")
"""Parts that `linearize` is tried on: its trace takes seconds; inside it is a jvp."""


TRACED = ("sft, chunk and remat", "grpo", "adamw")
"""Parts whose gradient is traced to a program: a custom backward pass, a vmap, an optimizer."""


@every_part
def test_gradients_agree(name: str) -> None:
    for transform in FIRST.values():
        assert_near(transform(built(name)), gradient(name))


@every_part
def test_directional_derivatives_equal_the_inner_product_with_the_gradient(name: str) -> None:
    tangents = direction(name)
    expected = inner(gradient(name), tangents)
    for transform in DIRECTIONAL.values():
        assert_near(transform(built(name).function, built(name).point, tangents), expected, 1e-8)


@every_part
def test_hessian_products_agree(name: str) -> None:
    part, tangents = built(name), direction(name)
    first, *others = (transform(part.function, part.point, tangents) for transform in HESSIAN.values())
    for other in others:
        assert_near(other, first)


@pytest.mark.parametrize("name", LINEARIZED)
def test_linearized_functions_and_gradients_equal_jvp(name: str) -> None:
    part, tangents = built(name), direction(name)
    for function in (part.function, grad(part.function)) if name == "adamw" else (part.function,):
        found = torch.func.linearize(function, part.point)[1](tangents)
        assert_near(found, jvp(function, part.point, tangents))


@pytest.mark.parametrize("name", TRACED)
def test_a_traced_gradient_is_a_function_that_can_be_differentiated(name: str) -> None:
    """`make_fx` records no number of the point at which it traces, and no cut-off of a derivative."""
    part, tangents = built(name), direction(name)
    traced = make_fx(grad(part.function))(part.point)
    elsewhere = [1.3 * x for x in part.point]
    assert_near(traced(elsewhere), grad(part.function)(elsewhere))
    product = HESSIAN["grad of grad"](part.function, part.point, tangents)
    assert_near(jvp(traced, part.point, tangents), product)
    assert_near(torch.func.grad(lambda x: inner(traced(x), tangents))(part.point), product)


def assert_compiles(function: Callable, *args: Any) -> None:
    """Compare a function compiled as one graph with itself in eager code."""
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert_near(compiled(*args), function(*args))


def test_compiled_per_sample_gradients_of_adapters_with_dropout_equal_eager() -> None:
    """The table of `test_stages.py` compiles every loss and update as a step; this is a loss under vmap."""
    model = model_of(DROPOUT)
    base = tree.cast(model.init(random.key(77)), torch.float64)
    made = sft(lora(model, base, rank=2, targets=("v",)), optim.sgd(0.1))
    params = tree.cast(made.init(random.key(0)).params, torch.float64)
    rows = {name: x[:2] for name, x in text_batch(0).items()}
    assert_compiles(per_sample_grad(loss_of(made), value=True), params, rows, random.key(3))


def test_a_compiled_hessian_product_of_grpo_equals_eager() -> None:
    """Backward over backward, through the vmap over groups."""
    base = tree.cast(model_of().init(random.key(77)), torch.float64)
    made = grpo(model_of(), optim.sgd(0.1), **ONLINE | {"reference": base})
    batch = {"batch_position": torch.arange(2), **tree.map(lambda x: x[:2], online_batch(made))}
    params = tree.cast(made.init(random.key(0)).params, torch.float64)
    product = hvp(lambda p: loss_of(made)(p, batch, None)[0])
    assert_compiles(product, params, tree.map(torch.ones_like, params))


def test_directional_derivatives_of_single_rows_equal_the_inner_product_with_their_gradients() -> None:
    model, batch, key = model_of(), text_batch(0), random.key(0)
    loss = loss_of(pretrain(model, optim.sgd(0.1)))
    params = tree.cast(model.init(random.key(0)), torch.float64)
    values, spec = tree.flatten(params)
    tangents = [random.normal(random.key(90 + i), x.shape).double() for i, x in enumerate(values)]

    def of_row(tokens: Tensor, labels: Tensor, position: Tensor) -> Tensor:
        row = {"tokens": tokens[None], "labels": labels[None], "batch_position": position[None]}
        return jvp(lambda leaves: loss(tree.unflatten(spec, leaves), row, key)[0], values, tangents)

    found = torch.func.vmap(of_row)(batch["tokens"], batch["labels"], torch.arange(len(batch["tokens"])))
    gradients = tree.leaves(per_sample_grad(loss)(params, batch, key))
    assert_near(found, sum((g * t).flatten(1).sum(1) for g, t in zip(gradients, tangents, strict=True)))


def test_the_gradient_of_each_completion_adds_up_to_the_gradient_of_the_groups() -> None:
    """`examples_of` has a completion a row, in GRPO as a group of one."""
    for make in (grpo, ppo):
        made = make(model_of(), optim.sgd(1.0), **ROLLOUT_OPTIONS | {"reference": None})
        batch, state = online_batch(made), made.init(random.key(0))
        state = made.init(random.key(0), tree.cast(state.params, torch.float64))
        each = per_sample_grad(loss_of(made))(state.params, batch, random.key(0))
        whole = {"batch_position": torch.arange(len(batch["mask"])), **batch}
        expected = grad(lambda p, made=made, whole=whole: loss_of(made)(p, whole, None)[0])(state.params)
        assert_near(tree.map(lambda g: g.sum(0), each), expected)


SWEEPS: dict[str, tuple[Callable, Callable, dict, tuple[str, ...]]] = {
    "pretrain": (pretrain, text_batch, {}, ("label_smoothing", "z_loss")),
    "dpo": (dpo, pair_batch, {"reference": True}, ("beta",)),
    "dpo conservative": (
        dpo,
        pair_batch,
        {"reference": True, "variant": "conservative"},
        ("label_smoothing",),
    ),
    "dpo simpo": (dpo, pair_batch, {"variant": "simpo"}, ("margin",)),
    "kto": (kto, answers, {"reference": True}, ("beta", "desirable_weight", "undesirable_weight")),
    "reward": (reward, pair_batch, {}, ("center",)),
    "grpo": (grpo, rollout_batch, ROLLOUT_OPTIONS, ("beta", "clip_low", "clip_high")),
    "ppo": (
        ppo,
        rollout_batch,
        {**ROLLOUT_OPTIONS, "epochs": 1},
        ("beta", "clip", "clip_value", "value_weight", "entropy_weight", "lam", "gamma"),
    ),
}


@pytest.mark.parametrize(
    ("name", "hyperparameter"), [(name, given) for name, row in SWEEPS.items() for given in row[-1]]
)
def test_a_stage_is_built_and_stepped_under_vmap_over_a_hyperparameter(
    name: str, hyperparameter: str
) -> None:
    make, batch, options, _ = SWEEPS[name]
    model, data, values = model_of(), batch(0), torch.tensor([0.1, 0.2])
    if options.get("reference"):
        options = {**options, "reference": model.init(random.key(77))}

    def build(value: Any) -> Stage:
        return make(model, optim.adam(1e-2), **options, **{hyperparameter: value})

    state = build(0.1).init(random.key(0))
    step_with = lambda value: tree.leaves(build(value).step(state, data).params)  # noqa: E731
    together = torch.func.vmap(step_with)(values)
    for i, value in enumerate(values.tolist()):
        for one, alone in zip(together, step_with(value), strict=True):
            torch.testing.assert_close(one[i], alone, rtol=1e-5, atol=1e-7)


def test_the_page_of_the_documentation_has_every_cell() -> None:
    """`python benchmarks/transforms.py --write` makes it; a new part or transform needs it made again."""
    page = (
        (Path(__file__).parents[2] / "docs" / "transforms.md").read_text().partition("<!-- transforms -->")[2]
    )
    table = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in page.splitlines()
        if row.startswith("| ")
    ]
    assert table[0] == ["part", *FIRST, *DIRECTIONAL, *HESSIAN]
    assert [row[0] for row in table[1:]] == list(PARTS)
    assert all(len(row) == len(table[0]) and all(float(x) < 1e-8 for x in row[1:]) for row in table[1:])


def test_fused_attention_refuses_forward_mode_and_names_the_backends_that_have_it() -> None:
    model, tokens = model_of(backend="sdpa"), text_batch(0)["tokens"]
    params = model.init(random.key(0))
    with pytest.raises(ValueError, match="no forward-mode derivative; use backend='naive' or 'flash'"):
        torch.func.jvp(lambda p: model.forward(p, tokens), (params,), (params,))
    with pytest.raises(
        ValueError, match=r"no second derivative of .*attention.*; build .*='naive' or 'flash'"
    ):
        grad(lambda p: grad(lambda p: model.forward(p, tokens).sum())(p)["embedding"].sum())(params)
