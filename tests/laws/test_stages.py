"""The laws of every stage. A new stage is one row of STAGES and inherits them all."""

from __future__ import annotations

import functools
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
from stages.stage import Stage, stage

ROWS, LENGTH, VOCABULARY = 8, 6, 17


class Row(NamedTuple):
    name: str
    make: Callable[..., Stage]  # make(accumulation=1)
    batch: Callable[[int], Tree]


def small(**changes: object) -> ModelConfig:
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


def text(number: int) -> Tree:
    """Batch `number`: random tokens, some labels ignored, so that micro-batches differ in their counts."""
    drawn = random.randint(random.key(100 + number), (ROWS, LENGTH + 1), 0, VOCABULARY).long()
    labels = drawn[:, 1:].clone()
    labels[:, 3:][torch.arange(ROWS) % 3 == number % 3] = -100
    return {"tokens": drawn[:, :-1], "labels": labels}


def points(number: int) -> Tree:
    x = random.normal(random.key(200 + number), (ROWS, 3))
    return {"x": x, "y": x.sum(1)}


def regression(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
    """A researcher's own loss: noisy linear regression, whose noise belongs to the row."""
    noise = torch.func.vmap(lambda row: random.normal(random.fold_in(key, row)))(batch["batch_position"])
    error = batch["x"] @ params["w"] + 0.01 * noise - batch["y"]
    count = torch.tensor(float(len(error)))
    return error.square().sum(), count, {"error": (error.abs().sum(), count)}


def make_own(accumulation: int = 1) -> Stage:
    init = lambda key: {"w": random.normal(key, (3,))}  # noqa: E731
    return stage(regression, optim.sgd(0.1), init=init, metrics=("error",), accumulation=accumulation)


def make_pretrain(
    optimizer: str = "adamw", config: dict | None = None, wrap: Callable | None = None, **options: object
) -> Callable[..., Stage]:
    def make(accumulation: int = 1) -> Stage:
        rate = optim.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 20)
        chosen = {
            "adamw": optim.adamw(rate, weight_decay=0.1, mask=optim.decay_mask),
            "muon": optim.muon(rate, muon_weight_dimension_numbers=optim.hidden_matrices),
            "lion": optim.lion(rate),
        }[optimizer]
        chained = optim.chain(optim.clip_by_global_norm(0.5), chosen)
        model = transformer(small(**(config or {})), wrap_block=wrap)
        return pretrain(model, chained, accumulation=accumulation, **options)

    return make


DROPOUT = {"hidden_dropout": 0.3, "attention_dropout": 0.2}


def make_foreign(accumulation: int = 1) -> Stage:
    """An optimizer that looks at several leaves at once: the norm of what Adam makes of the gradients."""
    chained = optim.chain(optim.adam(1e-2), optim.clip_by_global_norm(0.1))
    return pretrain(transformer(small()), chained, accumulation=accumulation)


def pairs(number: int) -> Tree:
    """Preference pairs: the first two tokens are the prompt; answers differ in length; one pair is
    padding."""
    sides = {}
    for side, name in enumerate(("chosen", "rejected")):
        drawn = random.randint(random.key(300 + 10 * number + side), (ROWS, LENGTH + 1), 0, VOCABULARY).long()
        drawn[:, :2] = random.randint(random.key(300 + number), (ROWS, 2), 0, VOCABULARY)
        place, ends = torch.arange(LENGTH), 3 + (torch.arange(ROWS) + side + number) % 4
        expected = (place >= 1) & (place < ends[:, None]) & (torch.arange(ROWS) != 5)[:, None]
        sides |= {
            f"{name}_tokens": drawn[:, :-1],
            f"{name}_labels": torch.where(expected, drawn[:, 1:], -100),
        }
    return sides


def answers(number: int) -> Tree:
    """Single answers, desirable or not; prompts and answers differ in length; the last row is padding."""
    drawn = random.randint(random.key(600 + number), (ROWS, LENGTH + 1), 0, VOCABULARY).long()
    rows, places = torch.arange(ROWS)[:, None], torch.arange(LENGTH)
    inside = (places >= 1 + rows % 2) & (places < 2 + (rows + number) % 5) & (rows < ROWS - 1)
    labels = torch.where(inside | (places == 1 + rows % 2) & (rows < ROWS - 1), drawn[:, 1:], -100)
    desirable = (torch.arange(ROWS) % 3 > 0) & (torch.arange(ROWS) < ROWS - 1)
    return {"tokens": drawn[:, :-1], "labels": labels, "desirable": desirable}


def make_groups(number: int, samples: int = 2) -> Tree:
    """Ready-made groups: ROWS prompts of up to 3 tokens, two answers of up to 3, and their rewards."""
    rows, key = ROWS * samples, random.key(400 + number)
    drawn = random.randint(key, (rows, LENGTH), 0, VOCABULARY).long()
    prompts = drawn.unflatten(0, (ROWS, samples))[:, :1].expand(-1, samples, -1).flatten(0, 1)
    lengths = 1 + torch.arange(rows) // samples % 3
    written = 1 + torch.arange(rows) % 3
    logps = -2 - random.uniform(key, (rows, 3))
    index = torch.arange(rows) // samples
    made = arrange(prompts[:, :3], lengths, drawn[:, 3:], written, logps, index, stop_tokens=(3, 4, 5, 6))
    return {**made._asdict(), "rewards": random.uniform(random.fold_in(key, 1), (rows, 1))}


def made_from(build: Callable, config: dict | None = None, **options: object) -> Callable[..., Stage]:
    """A stage of a small model and Adam, with a reference drawn from another key where the builder takes
    one."""

    def make(accumulation: int = 1) -> Stage:
        model = transformer(small(**(config or {})))
        given = {"reference": model.init(random.key(77))} if options.get("reference") else {}
        return build(model, optim.adam(1e-2), accumulation=accumulation, **(options | given))

    return make


def make_adapted(
    build: Callable, four_bits: bool = False, adapters: dict | None = None, **options: object
) -> Callable:
    """A stage whose params are adapters over a frozen base, perhaps in four bits; its reference is the
    base."""

    def make(accumulation: int = 1) -> Stage:
        plain = transformer(small(num_hidden_layers=1))
        base = plain.init(random.key(77))
        model = lora(plain, quantize_layers(base) if four_bits else base, rank=2, **(adapters or {}))
        given = {"reference": {}} if options.get("reference") else {}
        return build(model, optim.adam(1e-2), accumulation=accumulation, **(options | given))

    return make


GROUPS = {"score": None, "samples": 2, "sampling": Sampling(max_new_tokens=3), "reference": True}
STAGES = (
    Row("own", make_own, points),
    Row("pretrain", make_pretrain(), text),
    Row("pretrain-dropout", make_pretrain(config=DROPOUT), text),
    Row("pretrain-muon-ema", make_pretrain("muon", ema=0.9), text),
    Row("pretrain-lion-chunk-remat", make_pretrain("lion", chunk=7, wrap=remat, z_loss=1e-4), text),
    Row("pretrain-global-optimizer", make_foreign, text),
    Row("sft", made_from(sft), text),
    Row("reward", made_from(reward, DROPOUT, center=0.01, disable_dropout=False), pairs),
    Row("dpo", made_from(dpo, reference=True), pairs),
    Row(
        "dpo-ipo-dropout-chunk",
        made_from(dpo, DROPOUT, reference=True, variant="ipo", chunk=3, disable_dropout=False),
        pairs,
    ),
    Row("orpo", made_from(dpo, variant="orpo"), pairs),
    Row("kto", made_from(kto, reference=True, beta=1.0, undesirable_weight=0.5), answers),
    Row("grpo", made_from(grpo, DROPOUT, beta=0.04, variant="grpo", **GROUPS), make_groups),
    Row(
        "grpo-gspo-twice",
        made_from(grpo, variant="gspo", iterations=2, clip_low=0.2, clip_high=0.2, **GROUPS),
        make_groups,
    ),
    Row(
        "ppo",
        made_from(ppo, target_kl=1.0, value_weight=1.0, entropy_weight=0.01, epochs=1, **GROUPS),
        make_groups,
    ),
    Row("sft-dora-dropout", make_adapted(sft, adapters={"use_dora": True, "dropout": 0.2}), text),
    Row("grpo-qlora", make_adapted(grpo, four_bits=True, beta=0.04, variant="grpo", **GROUPS), make_groups),
    Row("pretrain-untied-qk", make_pretrain(config={"tie_word_embeddings": False, "qk_norm": True}), text),
)
BY_NAME = {row.name: row for row in STAGES}
every_stage = pytest.mark.parametrize("row", STAGES, ids=lambda row: row.name)


def fold(made: Stage, batches: list[Tree], state: Tree) -> Tree:
    return functools.reduce(made.step, batches, state)


def same_bits(a: Tree, b: Tree) -> bool:
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return tree.paths(a) == tree.paths(b) and all(
        x.dtype == y.dtype and x.numpy().tobytes() == y.numpy().tobytes() for x, y in pairs
    )


def assert_close(a: Tree, b: Tree, rtol: float, atol: float = 1e-6) -> None:
    for path, x, y in zip(tree.paths(a), tree.leaves(a), tree.leaves(b), strict=True):
        torch.testing.assert_close(
            x, y, rtol=rtol, atol=atol, equal_nan=True, msg=lambda m, path=path: f"{path}: {m}"
        )


def comparable_parts(state: Tree) -> Tree:
    """Parts of a state that must agree between two ways of computing a step."""
    return {
        "params": state.params,
        "opt_state": state.opt_state,
        "extra": state.extra,
        "loss": state.metrics["loss"],
    }


@every_stage
def test_step_leaves_its_arguments_bit_identical(row: Row) -> None:
    made = row.make()
    state, batch = made.init(random.key(0)), row.batch(0)
    before = tree.clone(state), tree.clone(batch)
    made.step(state, batch)
    assert same_bits(before[0], state)
    assert same_bits(before[1], batch)


@every_stage
def test_step_keeps_structure_shapes_and_dtypes(row: Row) -> None:
    made = row.make()
    state = made.init(random.key(0))
    after = made.step(state, row.batch(0))
    assert tree.structure(state) == tree.structure(after)
    assert [(x.shape, x.dtype) for x in tree.leaves(state)] == [
        (x.shape, x.dtype) for x in tree.leaves(after)
    ]


@every_stage
def test_no_two_leaves_of_an_initial_state_share_storage(row: Row) -> None:
    leaves = [x for x in tree.leaves(row.make().init(random.key(0))) if x.numel()]
    assert len({x.untyped_storage().data_ptr() for x in leaves}) == len(leaves)


@every_stage
def test_a_step_learns_and_counts(row: Row) -> None:
    made = row.make()
    state = made.init(random.key(0))
    after = fold(made, [row.batch(0)] * 12, state)
    assert int(after.step) == 12
    assert not same_bits(after.params, state.params)
    first = made.step(state, row.batch(0)).metrics["loss"]
    assert after.metrics["loss"] < first


@every_stage
def test_resumed_from_bytes_equals_uninterrupted(row: Row) -> None:
    made = row.make()
    batches = [row.batch(i) for i in range(5)]
    whole = fold(made, batches, made.init(random.key(3)))
    half = fold(made, batches[:2], made.init(random.key(3)))
    back = serial.from_bytes(made.init(random.key(9)), serial.to_bytes(half))
    assert same_bits(whole, fold(made, batches[int(back.step) :], back))


@every_stage
def test_the_same_key_gives_the_same_bits_and_another_does_not(row: Row) -> None:
    made = row.make()
    a, b, c = (made.step(made.init(random.key(seed)), row.batch(0)) for seed in (1, 1, 2))
    assert same_bits(a, b)
    assert not same_bits(a.params, c.params)


@every_stage
def test_population_equals_a_loop(row: Row) -> None:
    made = row.make()
    together = population(made, 3)
    state = fold(together, [row.batch(0), row.batch(1)], together.init(random.key(5)))
    keys = random.split(random.key(5), 3)
    alone = [fold(made, [row.batch(0), row.batch(1)], made.init(key)) for key in keys.unbind(0)]
    for member, single in zip(tree.unstack(state), alone, strict=True):
        assert_close(comparable_parts(member), comparable_parts(single), rtol=1e-5, atol=3e-6)


@every_stage
@pytest.mark.parametrize("parts", [2, 8])
def test_accumulation_changes_nothing(row: Row, parts: int) -> None:
    states = [row.make(accumulation=n) for n in (1, parts)]
    whole, cut = (made.step(made.init(random.key(0)), row.batch(1)) for made in states)
    torch.testing.assert_close(cut.metrics["loss"], whole.metrics["loss"], rtol=1e-6, atol=1e-6)
    assert_close(cut.metrics, whole.metrics, rtol=1e-5)  # sums, such as "tokens", and means


DROPPING: dict[str, tuple[Callable, Callable]] = {
    "pretrain": (partial(made_from, pretrain), text),
    "sft-adapters": (partial(make_adapted, sft), text),
    "reward": (partial(made_from, reward, disable_dropout=False), pairs),
    "dpo": (partial(made_from, dpo, reference=True, disable_dropout=False), pairs),
    "dpo-adapters": (partial(make_adapted, dpo, reference=True, disable_dropout=False), pairs),
    "kto": (partial(made_from, kto, reference=True, disable_dropout=False), answers),
}
WHOLE_MODEL: dict[str, tuple[Callable, Callable]] = {
    "reward": (partial(made_from, reward), pairs),
    "dpo": (partial(made_from, dpo, reference=True), pairs),
    "dpo-adapters": (partial(make_adapted, dpo, reference=True), pairs),
    "kto": (partial(made_from, kto, reference=True), answers),
    "grpo": (partial(made_from, grpo, beta=0.04, variant="grpo", **GROUPS), make_groups),
    "grpo-adapters": (partial(make_adapted, grpo, beta=0.04, variant="grpo", **GROUPS), make_groups),
    "ppo": (partial(made_from, ppo, **GROUPS), make_groups),
}


def with_and_without_dropout(name: str, build: Callable) -> tuple[Stage, Stage]:
    """The stage of a model that drops out half, and of the same one that drops nothing."""
    if "adapters" in name:
        return build(adapters={"dropout": 0.5})(), build()()
    return build(config={"hidden_dropout": 0.5, "attention_dropout": 0.5})(), build()()


@pytest.mark.parametrize("name", DROPPING)
def test_a_loss_is_validated_without_dropout(name: str) -> None:
    build, batch = DROPPING[name]
    dropping, plain = with_and_without_dropout(name, build)
    state = plain.step(plain.init(random.key(0)), batch(0))  # adapters begin as the identity, dropped or not
    stepped = [made.step(state, batch(1)).metrics["loss"] for made in (dropping, plain)]
    assert stepped[0] != stepped[1]
    asked = [mean_loss(made, [batch(0), batch(1)])(state.params) for made in (dropping, dropping, plain)]
    assert asked[0] == asked[1] == asked[2]


@pytest.mark.parametrize("name", WHOLE_MODEL)
def test_these_learn_without_dropout(name: str) -> None:
    """Dropout in the configuration or in adapters changes no bit of a step."""
    build, batch = WHOLE_MODEL[name]
    dropping, plain = with_and_without_dropout(name, build)
    state = plain.step(plain.init(random.key(0)), batch(0))
    assert same_bits(dropping.step(state, batch(1)), plain.step(state, batch(1)))


WHOLE = ("own",)
WHOLE_EAGER = (
    "pretrain",
    "pretrain-dropout",
    "pretrain-global-optimizer",
    "sft",
    "reward",
    "dpo",
    "kto",
    "grpo",
    "ppo",
)
"""Rows that are also compiled as one graph: a row of each family. All are compiled by regions, as runs do
it."""


@pytest.mark.parametrize("name", WHOLE_EAGER)
def test_eager_equals_compiled_whole(name: str) -> None:
    made, batch = BY_NAME[name].make(), BY_NAME[name].batch(0)
    state = made.init(random.key(0))
    step = jit(made.step, regions=False, backend="aot_eager")
    assert_close(
        comparable_parts(step(state, batch)), comparable_parts(made.step(state, batch)), rtol=1e-5, atol=3e-6
    )


DONATED = [*((name, False) for name in WHOLE), *((row.name, True) for row in STAGES)]


@pytest.mark.parametrize(("name", "regions"), DONATED)
def test_eager_equals_compiled_and_donated_is_that_bit_for_bit(name: str, regions: bool) -> None:
    """One compilation of each kind serves both laws: each is a good part of the suite's time."""
    row = BY_NAME[name]
    made = row.make()
    plain, donating = (jit(made.step, donate=d, regions=regions, backend="aot_eager") for d in (False, True))
    state = made.init(random.key(0))
    given = tree.clone(state)
    places = [x.data_ptr() for x in tree.leaves(given)]
    for number in range(2):
        eager = made.step(state, row.batch(number))
        state, given = plain(state, row.batch(number)), donating(given, row.batch(number))
        assert_close(comparable_parts(state), comparable_parts(eager), rtol=1e-5, atol=3e-6)
    assert same_bits(state, given)
    assert [x.data_ptr() for x in tree.leaves(given)] == places


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_passed_over(value: float) -> None:
    made = make_own()
    poisoned = {1, 4}
    batches = [points(i) for i in range(6)]
    hit = [{**b, "x": b["x"].clone().fill_(value)} if i in poisoned else b for i, b in enumerate(batches)]
    state = fold(made, hit, made.init(random.key(0)))
    skipped = made.init(random.key(0))
    for i, batch in enumerate(batches):
        skipped = skipped._replace(step=skipped.step + 1) if i in poisoned else made.step(skipped, batch)
    assert same_bits(state.params, skipped.params)
    assert same_bits(state.opt_state, skipped.opt_state)
    assert int(state.step) == 6
    after_bad = fold(made, hit[:2], made.init(random.key(0)))
    assert after_bad.metrics["nonfinite_leaf"] == 0
    assert state.metrics["nonfinite_leaf"] == -1


def remove_targets(batch: Tree) -> Tree:
    """The batch with nothing in it to learn from: no label, no reward, or no finite number."""
    holes = {
        name: torch.full_like(x, -100 if name.endswith("labels") else torch.nan)
        for name, x in batch.items()
        if name.endswith("labels") or name in ("rewards", "x")
    }
    return {**batch, **holes}


@every_stage
def test_a_batch_without_anything_to_learn_from_is_skipped_and_named(row: Row) -> None:
    made = row.make()
    state = made.step(made.init(random.key(0)), row.batch(0))
    after = made.step(state, remove_targets(row.batch(1)))
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

    made = stage(loss, optim.adam(0.1))
    state = made.init(random.key(0), {"w": torch.ones(3)})
    batch = {"x": torch.ones(2, 3), "bad": torch.tensor([False, False])}
    state = made.step(state, batch)
    for accumulated in (made, stage(loss, optim.adam(0.1), accumulation=2)):
        after = accumulated.step(state, {**batch, "bad": torch.tensor([where == "zero", True])})
        assert same_bits((after.params, after.opt_state), (state.params, state.opt_state))
        assert after.metrics["nonfinite_leaf"] == (1 if where == "sum" else 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_stored_reference_that_is_not_finite_is_skipped(value: float) -> None:
    made = dpo(transformer(small()), optim.adam(1e-2))
    state = made.init(random.key(0))
    stored = torch.full((ROWS,), -3.0)
    stored[2] = value
    after = made.step(
        state, {**pairs(0), "reference_chosen": stored, "reference_rejected": torch.full((ROWS,), -4.0)}
    )
    assert same_bits(after.params, state.params)
    assert after.metrics["nonfinite_leaf"] >= 0


HALVES: dict[str, Callable[..., Callable]] = {
    "pretrain": partial(made_from, pretrain),
    "sft": partial(made_from, sft),
    "reward": partial(made_from, reward),
    "dpo": partial(made_from, dpo, reference=True),
    "orpo": partial(made_from, dpo, variant="orpo"),
    "kto": partial(made_from, kto, reference=True, beta=1.0),
    "grpo": partial(made_from, grpo, beta=0.04, **GROUPS),
    "ppo": partial(made_from, ppo, **GROUPS),
}


@pytest.mark.parametrize("name", HALVES)
def test_every_stage_scales_its_loss_in_float16(name: str) -> None:
    made = HALVES[name](compute=torch.float16)()
    state = made.init(random.key(0))
    assert state.extra["loss_scale"].scale == 2.0**16
    after = fold(made, [BY_NAME[name].batch(0)] * 4, state)  # the first overflow, and halve the scale
    assert after.metrics["nonfinite_leaf"] == -1
    assert after.extra["loss_scale"].scale >= 2.0**13
    assert not same_bits(after.params, state.params)


def test_the_scaled_loss_is_a_mean() -> None:
    """A sum over 10,000 rows times 2**16 would overflow float16 where it is differentiated."""

    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        error = (batch["x"].half() @ params["w"]).square()
        return error.float().sum(), torch.tensor(float(len(error))), {}

    made = stage(loss, optim.sgd(0.1), compute=torch.float16)
    state = made.init(random.key(0), {"w": torch.ones(3)})
    assert made.step(state, {"x": torch.full((10_000, 3), 0.01)}).metrics["nonfinite_leaf"] == -1


def test_the_average_of_a_short_run_is_near_its_end() -> None:
    """20 steps with decay 0.999, without a warm-up, would give the initial params, by 98%."""
    made = make_pretrain(ema=0.999)()
    states = [made.init(random.key(0))]
    for number in range(20):
        states.append(made.step(states[-1], text(number)))
    average, start = states[0].params, states[0].params
    for t, state in enumerate(states[1:]):
        decay = min(0.999, (1 + t) / (10 + t))
        average = tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params)
    assert_close(states[-1].extra["ema"], average, rtol=1e-5)
    far, whole = (
        tree.norm(tree.map(Tensor.sub, states[-1].params, other))
        for other in (states[-1].extra["ema"], start)
    )
    assert far < 0.3 * whole


def test_params_in_few_digits_are_warned_about_once() -> None:
    made = make_pretrain()()
    with pytest.warns(UserWarning, match=r"stored in torch.bfloat16.*compute=torch.bfloat16"):
        state = made.init(random.key(0), tree.cast(made.init(random.key(0)).params, torch.bfloat16))
    made.step(state, text(0))  # warnings are errors here


def test_float16_scales_its_loss_and_recovers_from_overflow() -> None:
    made = pretrain(transformer(small()), optim.adamw(1e-2), compute=torch.float16, loss_scale=2.0**40)
    state = made.init(random.key(0))
    first = made.step(state, text(0))
    assert first.extra["loss_scale"].scale == 2.0**39
    assert same_bits(first.params, state.params)
    later = fold(made, [text(0)] * 40, first)
    assert not same_bits(later.params, state.params)
    assert later.metrics["loss"].isfinite()


def test_bfloat16_is_as_near_to_float64_as_its_digits_allow() -> None:
    """Distances of the loss to float64: bfloat16 has 8 bits, so 1e-2 at most, and float32 far less."""
    batch = text(0)
    exact, wide, narrow = (
        pretrain(transformer(small()), optim.sgd(0.1), compute=dtype)
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
    )
    losses = [
        made.step(made.init(random.key(0)), batch).metrics["loss"].double() for made in (exact, wide, narrow)
    ]
    assert abs(losses[1] - losses[0]) / losses[0] < 1e-6
    assert abs(losses[2] - losses[0]) / losses[0] < 1e-2


def test_params_may_be_given() -> None:
    made = make_own()
    start = {"w": torch.tensor([1.0, 2.0, 3.0])}
    state = made.init(random.key(0), start)
    assert same_bits(state.params, start)
    assert state.params["w"].data_ptr() != start["w"].data_ptr()


def test_errors_tell_the_fix() -> None:
    with pytest.raises(ValueError, match="no params to start from"):
        stage(regression, optim.sgd(0.1)).init(random.key(0))
    with pytest.raises(ValueError, match="ema is a decay"):
        stage(regression, optim.sgd(0.1), ema=1.5)
    with pytest.raises(ValueError, match="at least 1"):
        stage(regression, optim.sgd(0.1), accumulation=0)
    made = make_own()
    state = made.init(random.key(0))
    with pytest.raises(ValueError, match="the batch has no rows"):
        made.step(state, {"x": torch.zeros(0, 3), "y": torch.zeros(0)})
    with pytest.raises(ValueError, match=r"same number of rows, got x \[4, 3\], y \[1\]"):
        made.step(state, {"x": torch.zeros(4, 3), "y": torch.zeros(1)})
    made = make_own(accumulation=3)
    with pytest.raises(ValueError, match="do not divide"):
        made.step(state, points(0))
    with pytest.raises(ValueError, match="at least 1 member"):
        population(make_own(), 0)


def test_metrics_that_were_not_declared_are_refused() -> None:
    init = lambda key: {"w": random.normal(key, (3,))}  # noqa: E731
    for names in ((), ("error", "other")):
        made = stage(regression, optim.sgd(0.1), init=init, metrics=names)
        with pytest.raises(ValueError, match=r"write metrics=\('error',\)"):
            made.step(made.init(random.key(0)), points(0))


def test_a_population_of_another_size_is_refused() -> None:
    params = {"w": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match="leading axis of 3, one per member, got 2"):
        population(make_own(), 3).init(random.key(0), params)
