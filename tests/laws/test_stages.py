"""The laws of every training stage. A new stage is one row of STAGES and inherits them all."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from pure import optim, random, tree
from pure.adapt.lora import lora
from pure.adapt.qlora import quantize_layers
from pure.config import ModelConfig
from pure.generation.sampling import Sampling
from pure.nn.transformer import transformer
from pure.serial import serial
from pure.transform.jit import jit
from pure.transform.remat import remat
from pure.types import Tree
from stages.dpo import dpo
from stages.grpo import grpo
from stages.kto import kto
from stages.population import population
from stages.ppo import ppo
from stages.pretrain import pretrain
from stages.reward import reward
from stages.rollout import arrange
from stages.run.validation import mean_loss
from stages.sft import sft
from stages.stage import Stage, loss_of, stage

ROWS, LENGTH, VOCABULARY = 8, 6, 17


class Row(NamedTuple):
    name: str
    make: Callable[..., Stage]  # make(accumulation=1)
    batch: Callable[[int], Tree]  # batch(number): different numbers give different rows


def small(**changes: object) -> ModelConfig:
    """Return a small configuration with some fields changed."""
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 16,
    }
    return ModelConfig(**(fields | changes))


def text_batch(number: int) -> Tree:
    """Batch `number`: random tokens, some labels ignored, so that micro-batches differ in their counts."""
    tokens = random.randint(random.key(100 + number), (ROWS, LENGTH + 1), 0, VOCABULARY).long()
    labels = tokens[:, 1:].clone()
    labels[:, 3:][torch.arange(ROWS) % 3 == number % 3] = -100
    return {"tokens": tokens[:, :-1], "labels": labels}


def regression_batch(number: int) -> Tree:
    x = random.normal(random.key(200 + number), (ROWS, 3))
    return {"x": x, "y": x.sum(1)}


def regression(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
    """A user's own loss: linear regression, with noise that depends on the row's number only."""
    bits = torch.func.vmap(lambda row: random.fold_in(key, row))(batch["batch_position"])[:, 0]
    error = batch["x"] @ params["w"] + 0.02 * (bits.float() / 2**32 - 0.5) - batch["y"]
    count = torch.tensor(float(len(error)))
    return error.square().sum(), count, {"error": (error.abs().sum(), count)}


def make_own(accumulation: int = 1) -> Stage:
    """A stage built from a user's own loss and `init`."""
    init = lambda key: {"w": random.normal(key, (3,))}  # noqa: E731
    return stage(regression, optim.sgd(0.1), init=init, metrics=("error",), accumulation=accumulation)


def make_with_optax(accumulation: int = 1) -> Stage:
    """The same with an optimizer of optax."""
    optax = pytest.importorskip("optax", reason="optax is not installed (README)")
    from pure.interop.jax import from_optax

    optimizer = from_optax(optax.adamw(optax.warmup_cosine_decay_schedule(0.05, 0.1, 2, 60)))
    init = lambda key: {"w": random.normal(key, (3,))}  # noqa: E731
    return stage(regression, optimizer, init=init, metrics=("error",), accumulation=accumulation)


def make_pretrain(
    optimizer: str = "adamw", config: dict | None = None, wrap: Callable | None = None, **options: object
) -> Callable[..., Stage]:
    """A maker of pretraining stages with one of three optimizers; `config` changes the small model's."""

    def make(accumulation: int = 1) -> Stage:
        rate = optim.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 60)
        chosen = {
            "adamw": optim.adamw(rate, weight_decay=0.1, mask=optim.decay_mask),
            "muon": optim.muon(rate, ns_steps=2, muon_weight_dimension_numbers=optim.hidden_matrices),
            "lion": optim.lion(rate),
        }[optimizer]
        chained = optim.chain(optim.clip_by_global_norm(0.5), chosen)
        model = transformer(small(**(config or {})), wrap_block=wrap)
        return pretrain(model, chained, accumulation=accumulation, **options)

    return make


DROPOUT = {"hidden_dropout": 0.3, "attention_dropout": 0.2}


def make_with_global_clipping(accumulation: int = 1) -> Stage:
    """A stage whose optimizer is not leafwise: it clips Adam's update by its global norm."""
    chained = optim.chain(optim.adam(1e-2), optim.clip_by_global_norm(0.1))
    return pretrain(transformer(small()), chained, accumulation=accumulation)


def pair_batch(number: int) -> Tree:
    """Preference pairs: two tokens of prompt, answers of different lengths, and one pair of padding."""
    sides = {}
    for side, name in enumerate(("chosen", "rejected")):
        tokens = random.randint(
            random.key(300 + 10 * number + side), (ROWS, LENGTH + 1), 0, VOCABULARY
        ).long()
        tokens[:, :2] = random.randint(random.key(300 + number), (ROWS, 2), 0, VOCABULARY)
        positions, ends = torch.arange(LENGTH), 3 + (torch.arange(ROWS) + side + number) % 4
        in_answer = (positions >= 1) & (positions < ends[:, None]) & (torch.arange(ROWS) != 5)[:, None]
        labels = torch.where(in_answer, tokens[:, 1:], -100)
        sides |= {f"{name}_tokens": tokens[:, :-1], f"{name}_labels": labels}
    return sides


def answers(number: int) -> Tree:
    """Unpaired answers, desirable or not: prompts and answers differ in length; the last row is padding."""
    tokens = random.randint(random.key(600 + number), (ROWS, LENGTH + 1), 0, VOCABULARY).long()
    rows, positions = torch.arange(ROWS)[:, None], torch.arange(LENGTH)
    first, end = 1 + rows % 2, 2 + (rows + number) % 5
    in_answer = (positions == first) | ((positions >= first) & (positions < end))
    labels = torch.where(in_answer & (rows < ROWS - 1), tokens[:, 1:], -100)
    desirable = (torch.arange(ROWS) % 3 > 0) & (torch.arange(ROWS) < ROWS - 1)
    return {"tokens": tokens[:, :-1], "labels": labels, "desirable": desirable}


def rollout_batch(number: int, samples: int = 2) -> Tree:
    """A finished rollout: ROWS prompts of up to 3 tokens, two answers of up to 3 to each, and rewards."""
    rows, key = ROWS * samples, random.key(400 + number)
    tokens = random.randint(key, (rows, LENGTH), 0, VOCABULARY).long()
    prompts = tokens.unflatten(0, (ROWS, samples))[:, :1].expand(-1, samples, -1).flatten(0, 1)
    lengths = 1 + torch.arange(rows) // samples % 3
    written = 1 + torch.arange(rows) % 3
    logps = -2 - random.uniform(key, (rows, 3))
    index = torch.arange(rows) // samples
    rollout = arrange(prompts[:, :3], lengths, tokens[:, 3:], written, logps, index, stop_tokens=(3, 4, 5, 6))
    return {**rollout._asdict(), "rewards": random.uniform(random.fold_in(key, 1), (rows, 1))}


def make_with_adam(build: Callable, config: dict | None = None, **options: object) -> Callable[..., Stage]:
    """A maker of stages of a small model with Adam.

    With reference=True in `options`, the reference policy is a model initialised from another key.
    """

    def make(accumulation: int = 1) -> Stage:
        model = transformer(small(**(config or {})))
        given = {"reference": model.init(random.key(77))} if options.get("reference") else {}
        return build(model, optim.adam(1e-2), accumulation=accumulation, **(options | given))

    return make


def make_adapted(
    build: Callable, four_bits: bool = False, adapters: dict | None = None, **options: object
) -> Callable:
    """A maker of stages whose params are LoRA adapters over a frozen base, optionally quantised to four bits.

    With reference=True in `options`, the reference policy is the base.
    """

    def make(accumulation: int = 1) -> Stage:
        plain = transformer(small(num_hidden_layers=1))
        base = plain.init(random.key(77))
        model = lora(plain, quantize_layers(base) if four_bits else base, rank=2, **(adapters or {}))
        given = {"reference": {}} if options.get("reference") else {}
        return build(model, optim.adam(1e-2), accumulation=accumulation, **(options | given))

    return make


# Seven adapted matrices compile three times as long as these.
TWO_MATRICES = {"targets": ("v", "down")}
# Options of online stages. `score` is not called, as the batches are finished rollouts with rewards.
ROLLOUT_OPTIONS = {"score": None, "samples": 2, "sampling": Sampling(max_new_tokens=3), "reference": True}
STAGES = (
    Row("own", make_own, regression_batch),
    Row("own-optax", make_with_optax, regression_batch),
    Row("pretrain", make_pretrain(), text_batch),
    Row("pretrain-dropout", make_pretrain(config=DROPOUT), text_batch),
    Row("pretrain-muon-ema", make_pretrain("muon", ema=0.9), text_batch),
    Row("pretrain-lion-chunk-remat", make_pretrain("lion", chunk=7, wrap=remat, z_loss=1e-4), text_batch),
    Row("pretrain-global-optimizer", make_with_global_clipping, text_batch),
    Row("sft", make_with_adam(sft), text_batch),
    Row("reward", make_with_adam(reward, DROPOUT, center=0.01, disable_dropout=False), pair_batch),
    Row("dpo", make_with_adam(dpo, reference=True), pair_batch),
    Row(
        "dpo-ipo-dropout-chunk",
        make_with_adam(dpo, DROPOUT, reference=True, variant="ipo", chunk=3, disable_dropout=False),
        pair_batch,
    ),
    Row("orpo", make_with_adam(dpo, variant="orpo"), pair_batch),
    Row("kto", make_with_adam(kto, reference=True, beta=1.0, undesirable_weight=0.5), answers),
    Row("grpo", make_with_adam(grpo, DROPOUT, beta=0.04, variant="grpo", **ROLLOUT_OPTIONS), rollout_batch),
    Row(
        "grpo-gspo-twice",
        make_with_adam(grpo, variant="gspo", iterations=2, clip_low=0.2, clip_high=0.2, **ROLLOUT_OPTIONS),
        rollout_batch,
    ),
    Row(
        "ppo",
        make_with_adam(
            ppo, target_kl=1.0, value_weight=1.0, entropy_weight=0.01, epochs=1, **ROLLOUT_OPTIONS
        ),
        rollout_batch,
    ),
    Row(
        "sft-dora-dropout",
        make_adapted(sft, adapters={"use_dora": True, "dropout": 0.2, **TWO_MATRICES}),
        text_batch,
    ),
    Row("sft-qlora", make_adapted(sft, four_bits=True, adapters=TWO_MATRICES), text_batch),
    Row(
        "pretrain-untied-qk",
        make_pretrain(config={"tie_word_embeddings": False, "qk_norm": True}),
        text_batch,
    ),
)
BY_NAME = {row.name: row for row in STAGES}
every_stage = pytest.mark.parametrize("row", STAGES, ids=lambda row: row.name)


def run_steps(a_stage: Stage, batches: list[Tree], state: Tree) -> Tree:
    return functools.reduce(a_stage.step, batches, state)


def same_bits(a: Tree, b: Tree) -> bool:
    leaves = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return tree.paths(a) == tree.paths(b) and all(
        x.dtype == y.dtype and x.numpy().tobytes() == y.numpy().tobytes() for x, y in leaves
    )


def assert_close(a: Tree, b: Tree, rtol: float, atol: float = 1e-6) -> None:
    for path, x, y in zip(tree.paths(a), tree.leaves(a), tree.leaves(b), strict=True):
        torch.testing.assert_close(
            x, y, rtol=rtol, atol=atol, equal_nan=True, msg=lambda m, path=path: f"{path}: {m}"
        )


def comparable_parts(state: Tree) -> Tree:
    """Return the parts of a state that must agree between two ways of computing a step."""
    return {
        "params": state.params,
        "opt_state": state.opt_state,
        "extra": state.extra,
        "loss": state.metrics["loss"],
    }


@every_stage
def test_step_leaves_its_arguments_bit_identical(row: Row) -> None:
    a_stage = row.make()
    state, batch = a_stage.init(random.key(0)), row.batch(0)
    before = tree.clone(state), tree.clone(batch)
    a_stage.step(state, batch)
    assert same_bits(before[0], state)
    assert same_bits(before[1], batch)


@every_stage
def test_step_keeps_structure_shapes_and_dtypes(row: Row) -> None:
    a_stage = row.make()
    state = a_stage.init(random.key(0))
    after = a_stage.step(state, row.batch(0))
    assert tree.structure(state) == tree.structure(after)
    assert [(x.shape, x.dtype) for x in tree.leaves(state)] == [
        (x.shape, x.dtype) for x in tree.leaves(after)
    ]


@every_stage
def test_no_two_leaves_of_an_initial_state_share_storage(row: Row) -> None:
    leaves = [x for x in tree.leaves(row.make().init(random.key(0))) if x.numel()]
    assert len({x.untyped_storage().data_ptr() for x in leaves}) == len(leaves)


@every_stage
def test_steps_lower_the_loss_and_are_counted(row: Row) -> None:
    a_stage = row.make()
    state = a_stage.init(random.key(0))
    after = run_steps(a_stage, [row.batch(0)] * 12, state)
    assert int(after.step) == 12
    assert not same_bits(after.params, state.params)
    first = a_stage.step(state, row.batch(0)).metrics["loss"]
    assert after.metrics["loss"] < first


@every_stage
def test_a_run_resumed_from_bytes_equals_an_uninterrupted_one(row: Row) -> None:
    a_stage = row.make()
    batches = [row.batch(i) for i in range(5)]
    whole = run_steps(a_stage, batches, a_stage.init(random.key(3)))
    half = run_steps(a_stage, batches[:2], a_stage.init(random.key(3)))
    back = serial.from_bytes(a_stage.init(random.key(9)), serial.to_bytes(half))
    assert same_bits(whole, run_steps(a_stage, batches[int(back.step) :], back))


@every_stage
def test_the_same_key_gives_the_same_bits_and_another_does_not(row: Row) -> None:
    a_stage = row.make()
    a, b, c = (a_stage.step(a_stage.init(random.key(seed)), row.batch(0)) for seed in (1, 1, 2))
    assert same_bits(a, b)
    assert not same_bits(a.params, c.params)


@every_stage
def test_a_population_equals_a_loop_over_its_members(row: Row) -> None:
    a_stage = row.make()
    members = population(a_stage, 3)
    state = run_steps(members, [row.batch(0), row.batch(1)], members.init(random.key(5)))
    keys = random.split(random.key(5), 3)
    singles = [run_steps(a_stage, [row.batch(0), row.batch(1)], a_stage.init(key)) for key in keys.unbind(0)]
    for member, single in zip(tree.unstack(state), singles, strict=True):
        assert_close(comparable_parts(member), comparable_parts(single), rtol=1e-5, atol=3e-6)


@every_stage
@pytest.mark.parametrize("parts", [2, 8])
def test_accumulated_gradients_report_the_metrics_of_the_whole_batch(row: Row, parts: int) -> None:
    stages = [row.make(accumulation=n) for n in (1, parts)]
    whole, accumulated = (a_stage.step(a_stage.init(random.key(0)), row.batch(1)) for a_stage in stages)
    torch.testing.assert_close(accumulated.metrics["loss"], whole.metrics["loss"], rtol=1e-6, atol=1e-6)
    # Some metrics are sums, such as "tokens", others means.
    assert_close(accumulated.metrics, whole.metrics, rtol=1e-5)


KEEPING_DROPOUT: dict[str, tuple[Callable, Callable]] = {
    "pretrain": (partial(make_with_adam, pretrain), text_batch),
    "sft-adapters": (partial(make_adapted, sft), text_batch),
    "reward": (partial(make_with_adam, reward, disable_dropout=False), pair_batch),
    "dpo": (partial(make_with_adam, dpo, reference=True, disable_dropout=False), pair_batch),
    "dpo-adapters": (partial(make_adapted, dpo, reference=True, disable_dropout=False), pair_batch),
    "kto": (partial(make_with_adam, kto, reference=True, disable_dropout=False), answers),
}
DISABLING_DROPOUT: dict[str, tuple[Callable, Callable]] = {
    "reward": (partial(make_with_adam, reward), pair_batch),
    "dpo": (partial(make_with_adam, dpo, reference=True), pair_batch),
    "dpo-adapters": (partial(make_adapted, dpo, reference=True), pair_batch),
    "kto": (partial(make_with_adam, kto, reference=True), answers),
    "grpo": (partial(make_with_adam, grpo, beta=0.04, variant="grpo", **ROLLOUT_OPTIONS), rollout_batch),
    "grpo-adapters": (
        partial(make_adapted, grpo, beta=0.04, variant="grpo", **ROLLOUT_OPTIONS),
        rollout_batch,
    ),
    "ppo": (partial(make_with_adam, ppo, **ROLLOUT_OPTIONS), rollout_batch),
}


def make_with_and_without_dropout(name: str, build: Callable) -> tuple[Stage, Stage]:
    """Return a stage with dropout 0.5, and the same one without dropout."""
    if "adapters" in name:
        return build(adapters={"dropout": 0.5})(), build()()
    return build(config={"hidden_dropout": 0.5, "attention_dropout": 0.5})(), build()()


@pytest.mark.parametrize("name", KEEPING_DROPOUT)
def test_a_loss_is_validated_without_dropout(name: str) -> None:
    build, batch = KEEPING_DROPOUT[name]
    dropping, plain = make_with_and_without_dropout(name, build)
    state = plain.step(plain.init(random.key(0)), batch(0))  # new adapters are the identity, with dropout too
    training = [a_stage.step(state, batch(1)).metrics["loss"] for a_stage in (dropping, plain)]
    assert training[0] != training[1]
    validation = [
        mean_loss(a_stage, [batch(0), batch(1)])(state.params) for a_stage in (dropping, dropping, plain)
    ]
    assert validation[0] == validation[1] == validation[2]


@pytest.mark.parametrize("name", DISABLING_DROPOUT)
def test_preference_and_policy_stages_train_without_dropout(name: str) -> None:
    """Dropout in the configuration or in adapters changes no bit of a step."""
    build, batch = DISABLING_DROPOUT[name]
    dropping, plain = make_with_and_without_dropout(name, build)
    state = plain.step(plain.init(random.key(0)), batch(0))
    assert same_bits(dropping.step(state, batch(1)), plain.step(state, batch(1)))


DONATED_AS_ONE_GRAPH = ("own",)
COMPILED_AS_ONE_GRAPH = (
    "pretrain-dropout",
    "dpo",
    "grpo",
    "ppo",
)
"""Rows that are also compiled as one graph, one of each family; nearly all are compiled by regions too.

Pretraining keeps its optimizer; the others take SGD, since every optimizer's update is compiled as one graph in
`test_optimizers.py`; Adam's takes a quarter of the time of PPO's graph.
"""


def use_one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the small model one layer: a graph of two takes twice as long to compile."""
    monkeypatch.setitem(globals(), "small", partial(small, num_hidden_layers=1))


def with_momentum(rate: float, **_: object) -> optim.GradientTransformation:
    """SGD in place of Adam: its state is the sum of the gradients."""
    return optim.sgd(rate, momentum=0.9)


@pytest.mark.parametrize("name", COMPILED_AS_ONE_GRAPH)
def test_eager_equals_compiled_as_one_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_one_layer(monkeypatch)
    monkeypatch.setattr(optim, "adam", with_momentum)
    a_stage, batch = BY_NAME[name].make(), BY_NAME[name].batch(0)
    state = a_stage.init(random.key(0))
    step = jit(a_stage.step, regions=False, backend="aot_eager")
    assert_close(
        comparable_parts(step(state, batch)),
        comparable_parts(a_stage.step(state, batch)),
        rtol=1e-5,
        atol=3e-6,
    )


SAME_REGIONS = ("sft", "dpo", "grpo-gspo-twice")
"""Rows whose compiled regions are those of pretrain, dpo-ipo-dropout-chunk and grpo."""
DONATED = [
    *((name, False) for name in DONATED_AS_ONE_GRAPH),
    *((row.name, True) for row in STAGES if row.name not in SAME_REGIONS),
]


def compile_each_function_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets two compiled steps of a stage share the regions in which nothing is donated: they are the same code."""
    module = importlib.import_module("pure.transform.jit")
    compiled: dict[Callable, Callable] = {}
    compile_function = module._compile

    def compile_once(function: Callable, options: dict) -> Callable:
        if function not in compiled:
            compiled[function] = compile_function(function, options)
        return compiled[function]

    monkeypatch.setattr(module, "_compile", compile_once)


@pytest.mark.parametrize(("name", "regions"), DONATED)
def test_eager_equals_compiled_and_donation_changes_no_bit(
    name: str, regions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both laws in one test, as compilations take much of the suite's time."""
    compile_each_function_once(monkeypatch)
    row = BY_NAME[name]
    a_stage = row.make()
    plain, donating = (
        jit(a_stage.step, donate=d, regions=regions, backend="aot_eager") for d in (False, True)
    )
    state = a_stage.init(random.key(0))
    donated = tree.clone(state)
    pointers = [x.data_ptr() for x in tree.leaves(donated)]
    for number in range(2):
        eager = a_stage.step(state, row.batch(number))
        state, donated = plain(state, row.batch(number)), donating(donated, row.batch(number))
        assert_close(comparable_parts(state), comparable_parts(eager), rtol=1e-5, atol=3e-6)
    assert same_bits(state, donated)
    assert [x.data_ptr() for x in tree.leaves(donated)] == pointers


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_batch_with_a_gradient_that_is_not_finite_is_skipped(value: float) -> None:
    a_stage = make_own()
    poisoned = {1, 4}
    batches = [regression_batch(i) for i in range(6)]
    poisoned_batches = [
        {**b, "x": b["x"].clone().fill_(value)} if i in poisoned else b for i, b in enumerate(batches)
    ]
    state = run_steps(a_stage, poisoned_batches, a_stage.init(random.key(0)))
    skipped = a_stage.init(random.key(0))
    for i, batch in enumerate(batches):
        skipped = skipped._replace(step=skipped.step + 1) if i in poisoned else a_stage.step(skipped, batch)
    assert same_bits(state.params, skipped.params)
    assert same_bits(state.opt_state, skipped.opt_state)
    assert int(state.step) == 6
    after_bad = run_steps(a_stage, poisoned_batches[:2], a_stage.init(random.key(0)))
    assert after_bad.metrics["nonfinite_leaf"] == 0  # its last batch is the poisoned batch 1
    assert state.metrics["nonfinite_leaf"] == -1


def remove_targets(batch: Tree) -> Tree:
    """Return a batch that has no label, no reward, or no finite input."""
    holes = {
        name: torch.full_like(x, -100 if name.endswith("labels") else torch.nan)
        for name, x in batch.items()
        if name.endswith("labels") or name in ("rewards", "x")
    }
    return {**batch, **holes}


@every_stage
def test_a_batch_without_targets_is_skipped_and_reported(row: Row) -> None:
    a_stage = row.make()
    state = a_stage.step(a_stage.init(random.key(0)), row.batch(0))
    after = a_stage.step(state, remove_targets(row.batch(1)))
    for old, new in ((state.params, after.params), (state.opt_state, after.opt_state)):
        assert same_bits(old, new)
    assert same_bits(state.extra.get("ema", {}), after.extra.get("ema", {}))
    assert state.metrics["nonfinite_leaf"] == -1 < after.metrics["nonfinite_leaf"]
    assert after.step == 2


@pytest.mark.parametrize("where", ["sum", "count", "zero"])
def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is(where: str) -> None:
    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        total, bad = (params["w"] * batch["x"]).sum(), batch["bad"].any()
        count = torch.where(bad & (where != "sum"), 0.0 if where == "zero" else torch.nan, 1.0)
        return total + torch.where(bad & (where == "sum"), torch.nan, 0.0), count, {}

    a_stage = stage(loss, optim.adam(0.1))
    state = a_stage.init(random.key(0), {"w": torch.ones(3)})
    batch = {"x": torch.ones(2, 3), "bad": torch.tensor([False, False])}
    state = a_stage.step(state, batch)
    for accumulated in (a_stage, stage(loss, optim.adam(0.1), accumulation=2)):
        after = accumulated.step(state, {**batch, "bad": torch.tensor([where == "zero", True])})
        assert same_bits((after.params, after.opt_state), (state.params, state.opt_state))
        assert after.metrics["nonfinite_leaf"] == (1 if where == "sum" else 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_stored_reference_that_is_not_finite_is_skipped(value: float) -> None:
    a_stage = dpo(transformer(small()), optim.adam(1e-2))
    state = a_stage.init(random.key(0))
    stored = torch.full((ROWS,), -3.0)
    stored[2] = value
    after = a_stage.step(
        state, {**pair_batch(0), "reference_chosen": stored, "reference_rejected": torch.full((ROWS,), -4.0)}
    )
    assert same_bits(after.params, state.params)
    assert after.metrics["nonfinite_leaf"] >= 0


FLOAT16_STAGES: dict[str, Callable[..., Callable]] = {
    "pretrain": partial(make_with_adam, pretrain),
    "sft": partial(make_with_adam, sft),
    "reward": partial(make_with_adam, reward),
    "dpo": partial(make_with_adam, dpo, reference=True),
    "orpo": partial(make_with_adam, dpo, variant="orpo"),
    "kto": partial(make_with_adam, kto, reference=True, beta=1.0),
    "grpo": partial(make_with_adam, grpo, beta=0.04, **ROLLOUT_OPTIONS),
    "ppo": partial(make_with_adam, ppo, **ROLLOUT_OPTIONS),
}


@pytest.mark.parametrize("name", FLOAT16_STAGES)
def test_every_stage_scales_its_loss_in_float16(name: str) -> None:
    a_stage = FLOAT16_STAGES[name](compute=torch.float16)()
    state = a_stage.init(random.key(0))
    assert state.extra["loss_scale"].scale == 2.0**16
    after = run_steps(a_stage, [BY_NAME[name].batch(0)] * 4, state)  # the first overflow, and halve the scale
    assert after.metrics["nonfinite_leaf"] == -1
    assert after.extra["loss_scale"].scale >= 2.0**13
    assert not same_bits(after.params, state.params)


def test_float16_scales_the_mean_of_the_loss_not_the_sum() -> None:
    """The gradient of a sum over 10,000 rows, times 2**16, would overflow float16."""

    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        error = (batch["x"].half() @ params["w"]).square()
        return error.float().sum(), torch.tensor(float(len(error))), {}

    a_stage = stage(loss, optim.sgd(0.1), compute=torch.float16)
    state = a_stage.init(random.key(0), {"w": torch.ones(3)})
    assert a_stage.step(state, {"x": torch.full((10_000, 3), 0.01)}).metrics["nonfinite_leaf"] == -1


def test_the_average_of_params_warms_up() -> None:
    """Without a warm-up of the decay 0.999, the initial params would have weight 98% after 20 steps."""
    a_stage = make_pretrain(ema=0.999)()
    states = [a_stage.init(random.key(0))]
    for number in range(20):
        states.append(a_stage.step(states[-1], text_batch(number)))
    average, start = states[0].params, states[0].params
    for t, state in enumerate(states[1:]):
        decay = min(0.999, (1 + t) / (10 + t))
        average = tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params)
    assert_close(states[-1].extra["ema"], average, rtol=1e-5)
    distance_to_average, distance_to_start = (
        tree.norm(tree.map(Tensor.sub, states[-1].params, other))
        for other in (states[-1].extra["ema"], start)
    )
    assert distance_to_average < 0.3 * distance_to_start


def test_params_stored_in_bfloat16_give_one_warning() -> None:
    a_stage = make_pretrain()()
    with pytest.warns(UserWarning, match=r"stored in torch.bfloat16.*compute=torch.bfloat16"):
        state = a_stage.init(random.key(0), tree.cast(a_stage.init(random.key(0)).params, torch.bfloat16))
    a_stage.step(state, text_batch(0))  # pytest turns a second warning into an error


def test_a_float16_run_recovers_from_an_overflow() -> None:
    a_stage = pretrain(transformer(small()), optim.adamw(1e-2), compute=torch.float16, loss_scale=2.0**40)
    state = a_stage.init(random.key(0))
    first = a_stage.step(state, text_batch(0))
    assert first.extra["loss_scale"].scale == 2.0**39
    assert same_bits(first.params, state.params)
    later = run_steps(a_stage, [text_batch(0)] * 40, first)
    assert not same_bits(later.params, state.params)
    assert later.metrics["loss"].isfinite()


def test_a_bfloat16_loss_is_close_to_float64() -> None:
    """Relative errors: at most 1e-2 in bfloat16, which has 8 significant bits, and 1e-6 in float32."""
    batch = text_batch(0)
    losses = []
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        a_stage = pretrain(transformer(small()), optim.sgd(0.1), compute=dtype)
        losses.append(a_stage.step(a_stage.init(random.key(0)), batch).metrics["loss"].double())
    float64, float32, bfloat16 = losses
    assert abs(float32 - float64) / float64 < 1e-6
    assert abs(bfloat16 - float64) / float64 < 1e-2


def test_params_that_are_given_are_copied_into_the_state() -> None:
    a_stage = make_own()
    start = {"w": torch.tensor([1.0, 2.0, 3.0])}
    state = a_stage.init(random.key(0), start)
    assert same_bits(state.params, start)
    assert state.params["w"].data_ptr() != start["w"].data_ptr()


def test_bad_options_and_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="no params to start from"):
        stage(regression, optim.sgd(0.1)).init(random.key(0))
    with pytest.raises(ValueError, match="ema is a decay"):
        stage(regression, optim.sgd(0.1), ema=1.5)
    with pytest.raises(ValueError, match="at least 1"):
        stage(regression, optim.sgd(0.1), accumulation=0)
    a_stage = make_own()
    state = a_stage.init(random.key(0))
    with pytest.raises(ValueError, match="the batch has no rows"):
        a_stage.step(state, {"x": torch.zeros(0, 3), "y": torch.zeros(0)})
    with pytest.raises(ValueError, match=r"same number of rows, got x \[4, 3\], y \[1\]"):
        a_stage.step(state, {"x": torch.zeros(4, 3), "y": torch.zeros(1)})
    a_stage = make_own(accumulation=3)
    with pytest.raises(ValueError, match="do not divide"):
        a_stage.step(state, regression_batch(0))
    with pytest.raises(ValueError, match="at least 1 member"):
        population(make_own(), 0)


def test_metrics_that_were_not_declared_are_refused() -> None:
    init = lambda key: {"w": random.normal(key, (3,))}  # noqa: E731
    for names in ((), ("error", "other")):
        a_stage = stage(regression, optim.sgd(0.1), init=init, metrics=names)
        with pytest.raises(ValueError, match=r"write metrics=\('error',\)"):
            a_stage.step(a_stage.init(random.key(0)), regression_batch(0))


def test_the_loss_of_a_population_is_that_of_each_member() -> None:
    one = make_own()
    members, batch = population(one, 3), {"batch_position": torch.arange(8), **regression_batch(0)}
    state = members.init(random.key(5))
    together = loss_of(members)(state.params, batch, state.key)
    alone = [loss_of(one)(member.params, batch, member.key) for member in tree.unstack(state)]
    assert_close(together, tree.stack(alone), rtol=1e-6)
    with pytest.raises(ValueError, match="this stage was made without a loss; give Stage"):
        loss_of(Stage(one.init, one.step))


def test_the_loss_of_a_stage_numbers_the_rows_of_a_plain_batch() -> None:
    model = transformer(small(num_hidden_layers=1, hidden_dropout=0.5))
    params, key, batch = model.init(random.key(0)), random.key(1), text_batch(0)
    for made in (pretrain(model, optim.sgd(0.1)), sft(model, optim.sgd(0.1))):
        numbered = {"batch_position": torch.arange(len(batch["tokens"])), **batch}
        assert same_bits(loss_of(made)(params, batch, key), loss_of(made)(params, numbered, key))
        moved = {
            **numbered,
            "batch_position": numbered["batch_position"] + 1,
        }  # a part of a batch keeps its own
        assert loss_of(made)(params, moved, key)[0] != loss_of(made)(params, numbered, key)[0]
        with pytest.raises(ValueError, match=r"loss_of: the batch has no rows"):
            loss_of(made)(params, {}, key)


def test_a_population_of_another_size_is_refused() -> None:
    params = {"w": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match="leading axis of 3, one per member, got 2"):
        population(make_own(), 3).init(random.key(0), params)
