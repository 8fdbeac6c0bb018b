"""A sweep: each member equals the stage of its values, run alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pure import optim, random, tree
from pure.generation.sampling import Sampling
from pure.nn.transformer import transformer
from pure.transform.jit import jit
from stages.checkpoint.fingerprint import describe
from stages.dpo import dpo
from stages.grpo import grpo
from stages.run import loop
from stages.run.log import read_lines
from stages.run.loop import RunOptions, run
from stages.run.validation import member_validation
from stages.sft import sft
from stages.stage import Stage, loss_of, stage
from stages.sweep import grid, sweep
from tests.laws.test_stages import make_own, pair_batch, regression, regression_batch, small, text_batch
from tests.stages.test_online import even_share, prompt_batch

MODEL = transformer(small(num_hidden_layers=1, max_position_embeddings=32))
REFERENCE = MODEL.init(random.key(77))
KEY = random.key(3)


def by_rate(rate: Any) -> Stage:
    schedule = optim.warmup_cosine_decay_schedule(0.0, rate, 1, 20)
    return sft(MODEL, optim.chain(optim.clip_by_global_norm(0.5), optim.adamw(schedule)))


def by_decay(decay: Any, b2: Any) -> Stage:
    return sft(MODEL, optim.adamw(0.1, b2=b2, weight_decay=decay))


def by_beta(beta: Any) -> Stage:
    return dpo(MODEL, optim.adam(1e-2), reference=REFERENCE, beta=beta)


def by_temperature(temperature: Any) -> Stage:
    sampling = Sampling(max_new_tokens=4, temperature=temperature)
    return grpo(MODEL, optim.adam(1e-2), score=even_share, samples=4, sampling=sampling)


def own(rate: Any) -> Stage:
    init = lambda key: {"w": random.normal(key, (3,))}  # noqa: E731
    return stage(regression, optim.sgd(rate), init=init, metrics=("error",))


def by_ema(ema: Any) -> Stage:
    init = lambda key: {"w": random.normal(key, (3,))}  # noqa: E731
    return stage(regression, optim.sgd(0.1), init=init, metrics=("error",), ema=ema)


ROWS: dict[str, tuple[Callable, dict, Callable]] = {
    "learning rate": (by_rate, {"rate": [0.1, 0.01, 0.001]}, text_batch),
    "weight decay and b2": (by_decay, {"decay": [0.0, 0.3], "b2": torch.tensor([0.9, 0.99])}, text_batch),
    "decay of the average": (by_ema, {"ema": [0.5, 0.9]}, regression_batch),
    "beta": (by_beta, {"beta": [0.05, 0.5]}, pair_batch),
    "temperature, online": (by_temperature, {"temperature": [0.5, 2.0]}, prompt_batch),
    "a loss of one's own": (own, {"rate": [0.1, 0.2]}, regression_batch),
}


def assert_members_equal(swept: Any, alone: list[Any]) -> None:
    for member, single in zip(tree.unstack(swept), alone, strict=True):
        assert tree.paths(member) == tree.paths(single)
        for x, y in zip(tree.leaves(member), tree.leaves(single), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=3e-6, equal_nan=True)


@pytest.mark.parametrize("name", ROWS)
def test_a_member_equals_the_stage_of_its_values_alone(name: str) -> None:
    make, values, batch = ROWS[name]
    swept = sweep(make, values)
    batches = [batch(0), batch(1)]
    members = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    numbers = [{k: float(v) for k, v in member.items()} for member in members]
    alone = [functools.reduce(make(**n).step, batches, make(**n).init(KEY)) for n in numbers]
    assert_members_equal(functools.reduce(swept.step, batches, swept.init(KEY)), alone)


def test_seeds_give_each_member_a_key_of_its_own_and_equal_seeds_the_same_start() -> None:
    values = grid(rate=[0.1, 0.2], seed=[0, 7])
    swept = sweep(own, {"rate": values["rate"]}, seeds=values["seed"])
    state = swept.step(swept.init(KEY), regression_batch(0))
    alone = [
        own(rate).step(own(rate).init(random.fold_in(KEY, seed)), regression_batch(0))
        for rate in (0.1, 0.2)
        for seed in (0, 7)
    ]
    assert_members_equal(state, alone)
    only_seeds = sweep(make_own, {}, seeds=range(3)).init(KEY).params["w"]
    assert len({tuple(row) for row in only_seeds.tolist()}) == 3
    assert (swept.init(KEY).params["w"][0] == swept.init(KEY).params["w"][2]).all()


def test_members_start_from_shared_params_and_may_see_batches_of_their_own() -> None:
    swept = sweep(own, {"rate": [0.1, 0.1]}, shared_batch=False)
    params = {"w": torch.ones(3)}
    batches = [regression_batch(0), regression_batch(1)]
    state = swept.step(swept.init(KEY, params), tree.stack(batches))
    assert_members_equal(state, [own(0.1).step(own(0.1).init(KEY, params), batch) for batch in batches])


def square(params: Any, batch: Any, key: Any) -> tuple:
    return (params - batch["x"]).square().sum(), torch.tensor(1.0), {}


def test_a_run_compiles_a_sweep_whole_and_writes_into_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "jit", partial(jit, backend="aot_eager"))
    swept = sweep(lambda rate: stage(square, optim.sgd(rate)), {"rate": [0.1, 0.25]})
    state = swept.init(KEY, torch.ones(2))
    storage = state.params.data_ptr()
    step = loop.build_step(swept, tmp_path, None, backend="torch", compile=True)
    after = step(state, {"x": torch.tensor([[3.0, 5.0]])})
    torch.testing.assert_close(after.params, torch.tensor([[1.4, 1.8], [2.0, 3.0]]))
    assert after.params.data_ptr() == storage


def test_a_sweep_is_logged_by_member_and_one_that_diverges_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.run.metrics.MAX_CONSECUTIVE_SKIPS", 2)
    swept = sweep(own, {"rate": [0.1, 1e25]})
    batches = [regression_batch(i) for i in range(8)]
    validate = member_validation(lambda params: {"val_loss": float(params["w"].sub(1).square().sum())})
    options = RunOptions(compile=False, quiet=True, eval_every=1, watch="val_loss/lowest")
    found = run(swept, batches, tmp_path, key=KEY, validate=validate, options=options)
    lines = list(read_lines(tmp_path / "metrics.jsonl"))
    assert found.status == "complete"
    assert found.best.best == min(line["val_loss/0"] for line in lines)
    assert lines[-1]["loss/0"] < lines[0]["loss/0"]
    assert lines[-1]["nonfinite_leaf/0"] == -1
    assert lines[-2]["nonfinite_leaf/1"] >= 0
    assert lines[-1]["nonfinite_leaf/1"] >= 0


def test_the_fingerprint_of_a_sweep_names_its_values() -> None:
    first, second = (describe(sweep(own, {"rate": [0.1, rate]})) for rate in (0.2, 0.3))
    assert [name for name in first if first[name] != second.get(name)] == ["values.rate"]


def broken(rate: Any) -> Stage:
    return own(rate if rate > 0.5 else 0.5)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (partial(sweep, own, {"rate": "fast"}), TypeError, "rate to be a tensor .P. or a list of numbers"),
        (partial(sweep, own, {"rate": [0.1, None]}), TypeError, "only numbers can be vmapped"),
        (partial(sweep, own, {}), ValueError, "values of one length, one for each member, got none"),
        (partial(sweep, own, {"rate": []}), ValueError, r"one value for each member, got \[0\]"),
        (partial(sweep, own, {"rate": torch.tensor(0.1)}), ValueError, r"got \[\]"),
        (partial(sweep, own, {"rate": [0.1]}, seeds=[1, 2]), ValueError, "'rate': 1, 'seeds': 2"),
        (partial(sweep, own, {"rate": [0.1]}, seeds=[-1]), ValueError, "integers of at least 0"),
        (partial(sweep, by_beta, {"beta": [0.1, -0.1]}), ValueError, "of member 1, .*beta must be above 0"),
        (partial(sweep, broken, {"rate": [0.1]}), ValueError, "make reads the value of one of rate"),
    ],
)
def test_what_cannot_be_swept_is_refused(build: Callable, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_members_of_another_structure_or_number_are_refused() -> None:
    sizes = iter([3, 4])
    changing = lambda rate: stage(  # noqa: E731
        regression, optim.sgd(rate), init=lambda key: {"w": torch.zeros(next(sizes))}
    )
    with pytest.raises(ValueError, match=r"params/w is \[3\] in member 0 and \[4\] in member 1"):
        sweep(changing, {"rate": [0.1, 0.2]}).init(KEY)
    with pytest.raises(ValueError, match="stacked state of 2 members"):
        sweep(own, {"rate": [0.1, 0.2]}).step(own(0.1).init(KEY), regression_batch(0))
    with pytest.raises(ValueError, match="stacked state of 2 members"):
        sweep(own, {"rate": [0.1, 0.2]}).step(sweep(own, {"rate": [0.1] * 3}).init(KEY), regression_batch(0))


def test_the_loss_of_a_sweep_is_that_of_each_member() -> None:
    made, batch = sweep(by_beta, {"beta": [0.1, 0.5]}), {"batch_position": torch.arange(8), **pair_batch(0)}
    state = made.step(made.init(KEY), pair_batch(1))
    for keys in (state.key, None):
        together = tree.unstack(loss_of(made)(state.params, batch, keys))
        for beta, member, found in zip((0.1, 0.5), tree.unstack(state), together, strict=True):
            key = None if keys is None else member.key
            expected = loss_of(by_beta(beta))(member.params, batch, key)
            torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
            assert found[1] == expected[1] == 7


def test_names_that_make_does_not_take_and_batches_without_the_axis_are_refused() -> None:
    values = grid(rate=[0.1, 0.2], seed=[0, 1])
    with pytest.raises(
        TypeError, match=r"does not take the values rate, seed as arguments.*seeds=values.pop"
    ):
        sweep(own, values)
    seeds = values.pop("seed")
    apart = sweep(own, values, seeds=seeds, shared_batch=False)
    state = apart.init(KEY)
    with pytest.raises(ValueError, match=r"each leaf of a batch is \[P, ...\] with P = 4 members, got x"):
        apart.step(state, regression_batch(0))
    with pytest.raises(ValueError, match=r"with P = 4 members"):
        loss_of(apart)(state.params, regression_batch(0), None)
    assert apart.step(state, tree.stack([regression_batch(i) for i in range(4)])).step.tolist() == [1] * 4
