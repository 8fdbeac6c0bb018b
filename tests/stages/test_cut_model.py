"""Runs of tensor-parallel models, alone and with data or context parallelism, against runs of one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from pure import random, tree
from pure.config import ModelConfig
from pure.generation.sampling import Sampling
from pure.nn.context_parallel import context_parallel
from pure.nn.tensor_parallel import tensor_parallel
from pure.nn.tensor_params import join_params, split_params
from pure.nn.transformer import transformer
from pure.optim.adamw import adamw
from pure.optim.base import chain
from pure.optim.clip import clip_by_global_norm
from pure.optim.muon import muon
from pure.parallel.cut_models import CutModel
from pure.parallel.group import Group, group_of
from pure.parallel.rows import gather, local
from pure.transform.gradient import accumulation
from pure.transform.noise_scale import noise_scale
from pure.types import GradientTransformation, Model, Tree
from stages.checkpoint import checkpoint
from stages.checkpoint.fingerprint import fingerprint
from stages.cut_model import check_cut_models, norms_of_whole_leaves
from stages.data_parallel import data_parallel
from stages.dpo import dpo
from stages.grpo import grpo
from stages.population import population
from stages.ppo import ppo
from stages.pretrain import pretrain
from stages.rollout import Rollouts
from stages.sft import sft
from stages.sharded import sharded
from stages.stage import Stage
from stages.state import TrainState
from tests.crew import Crew
from tests.pure.nn.cut_cases import SIZES, batch, distance, noisy_params

pytestmark = pytest.mark.processes

CONFIG = ModelConfig(
    **SIZES, tie_word_embeddings=False, qk_norm=True, attention_dropout=0.1, hidden_dropout=0.1
)
STEPS = 2


def clipped_adamw() -> GradientTransformation:
    """A clip that shortens every gradient of these runs."""
    return chain(clip_by_global_norm(0.1), adamw(1e-3, weight_decay=0.1))


def score(rollouts: Rollouts) -> Tensor:
    return (rollouts.tokens.float().mean(1) + 0.1 * rollouts.tokens[:, -1])[:, None]


def count_calls(calls: list[int], rollouts: Rollouts) -> Tensor:
    """A reward that fails the second time, and that other processes must not compute."""
    calls.append(len(rollouts.tokens))
    if len(calls) > 1:
        raise KeyError("no judge")
    return score(rollouts) + torch.distributed.get_rank()


def labelled(i: int) -> Tree:
    """A batch of four rows; two processes get different numbers of labels."""
    data = batch(i, rows=4, length=12)
    return {name: data[name] for name in ("tokens", "labels")}


def packed(i: int) -> Tree:
    return batch(i, rows=4, length=12)


def pairs(i: int) -> Tree:
    sides = {"chosen": labelled(i), "rejected": labelled(i + 100)}
    return {f"{side}_{name}": x for side, data in sides.items() for name, x in data.items()}


def prompts(i: int) -> Tree:
    return {
        "prompts": batch(i, rows=2, length=4)["tokens"],
        "lengths": torch.tensor([4, 2]),
        "row": torch.tensor([2 * i, 2 * i + 1]),
    }


def make_stages(model: Model, reference: Tree) -> dict[str, tuple[Stage, Callable[[int], Tree]]]:
    """Stages, and the batches of their steps."""
    sampling = Sampling(max_new_tokens=5, stop_tokens=(3,))
    online: dict[str, Any] = {"score": score, "sampling": sampling, "reference": reference}
    return {
        "pretrain": (
            pretrain(model, clipped_adamw(), chunk=7, z_loss=1e-3, label_smoothing=0.1, ema=0.9),
            labelled,
        ),
        "sft": (sft(model, clipped_adamw(), accumulation=2), packed),
        "dpo": (dpo(model, clipped_adamw(), reference=reference), pairs),
        "grpo": (grpo(model, clipped_adamw(), samples=4, beta=0.1, iterations=2, **online), prompts),
        "ppo": (ppo(model, clipped_adamw(), samples=2, **online), prompts),
    }


def train(fit: Stage, make_batch: Callable[[int], Tree], params: Tree | None) -> TrainState:
    state = fit.init(random.key(0), params)
    for i in range(STEPS):
        state = fit.step(state, make_batch(i))
    return state


def plain_runs() -> dict[str, TrainState]:
    model = transformer(CONFIG)
    params = noisy_params(model)
    stages = make_stages(model, params)
    return {name: train(*stages[name], params) for name in stages}


def resumed_run(fit: Stage, model: Model, params: Tree, folder: str) -> TrainState:
    """The state after a step, a checkpoint of the whole state, and another step."""
    state = fit.step(fit.init(random.key(0), params), labelled(0))
    every = group_of("test", torch.distributed.group.WORLD)
    plain, _ = make_stages(transformer(CONFIG), noisy_params(transformer(CONFIG)))["pretrain"]
    checkpoint.save(folder, join_params(state, model), group=every, fingerprint=fingerprint(fit))
    target = plain.init(random.key(1))
    loaded = checkpoint.load(folder, target, group=every, fingerprint=fingerprint(plain))
    return fit.step(split_params(loaded.state, model), labelled(1))


def cut_runs(folder: str) -> dict[str, Any]:
    """Whole states after two steps on 2 x 2 processes, and what must hold on each."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    plain = transformer(CONFIG)
    params = noisy_params(plain)
    model = tensor_parallel(plain, mesh["tensor"])
    own = split_params(params, model)
    results: dict[str, Any] = {}
    stages = make_stages(model, own)
    for name, (fit, make_batch) in stages.items():
        state = train(data_parallel(fit, mesh["data"]), make_batch, own)
        results[name] = join_params(state, model)
    resumed = resumed_run(data_parallel(stages["pretrain"][0], mesh["data"]), model, own, folder)
    assert distance(join_params(resumed, model), results["pretrain"]) == 0
    rows = sharded(pretrain(model, clipped_adamw()), mesh["data"])
    first = rows.init(random.key(0))
    results["rows drawn"] = join_params(gather(first), model)
    held = tree.nbytes(local((first.params, first.opt_state)))
    results["rows"] = join_params(gather(train(rows, labelled, own)), model)
    both = context_parallel(model, mesh["data"])
    results["context"] = join_params(train(*make_stages(both, own)["sft"], own), model)
    cut, alone = (pretrain(m, clipped_adamw()) for m in (both, plain))
    assert fingerprint(data_parallel(cut, mesh["data"])) == fingerprint(alone)
    fit, make_batch = make_stages(model, own)["sft"]
    members = train(population(fit, 2), make_batch, None)
    results["population"] = tree.stack([join_params(member, model) for member in tree.unstack(members)])
    calls: list[int] = []
    judged = grpo(
        both,
        clipped_adamw(),
        score=partial(count_calls, calls),
        sampling=Sampling(max_new_tokens=3),
        samples=2,
    )
    state = judged.step(judged.init(random.key(0), own), prompts(0))
    with pytest.raises(KeyError, match="no judge"):
        judged.step(state, prompts(1))
    results["calls"], results["held"] = calls, held
    results["rewards"] = state.metrics["rewards/reward/mean"]
    for optimizer, gradient, words in (
        (muon(1e-3), None, "the shape or the norm of whole leaves"),
        (adamw(1e-3), noise_scale(parts=2), "takes norms of whole gradients"),
    ):
        refused = pretrain(model, optimizer, gradient=gradient)
        with pytest.raises(ValueError, match=words):
            refused.step(refused.init(random.key(0), own), labelled(0))
    return results


def test_runs_on_two_by_two_processes_equal_those_of_one(four: Crew, tmp_path: Path) -> None:
    results = four.run(cut_runs, str(tmp_path))
    expected = plain_runs()
    expected["context"] = expected["sft"]
    fit, make_batch = make_stages(transformer(CONFIG), noisy_params(transformer(CONFIG)))["sft"]
    expected["population"] = train(population(fit, 2), make_batch, None)
    alone = pretrain(transformer(CONFIG), clipped_adamw())
    expected["rows drawn"] = first = alone.init(random.key(0))
    expected["rows"] = train(alone, labelled, noisy_params(transformer(CONFIG)))
    assert max(result.pop("held") for result in results) < 0.27 * tree.nbytes((first.params, first.opt_state))
    assert [result.pop("calls") for result in results] == [[4, 4], [], [], []]
    assert len({result.pop("rewards").item() for result in results}) == 1
    assert results[0].keys() == expected.keys()
    for name, state in expected.items():
        assert name != "rows drawn" or distance(results[0][name].params, state.params) == 0
        for other in results[1:]:
            assert distance(results[0][name].params, other[name].params) == 0, name
        assert distance(results[0][name].params, state.params) < 1e-6, name
        assert distance(results[0][name].extra, state.extra) < 1e-6 if state.extra else True
        for metric, value in state.metrics.items():
            got = results[0][name].metrics[metric]
            torch.testing.assert_close(
                got, value, rtol=1e-4, atol=1e-5, equal_nan=True, msg=f"{name} {metric}"
            )


def test_replicated_leaves_count_once() -> None:
    """A group of one has all parts, so the norms are unchanged, and so are those of no model."""
    grads = transformer(CONFIG).init(random.key(0))
    norms = torch.stack([x.norm() for x in tree.leaves(grads)])
    models = [CutModel(Group(0, 1, None), CONFIG)]
    torch.testing.assert_close(norms_of_whole_leaves(norms, grads, models), norms)


def test_nothing_is_refused_without_a_cut_model() -> None:
    check_cut_models([], False, noise_scale(parts=2))
    check_cut_models([CutModel(Group(0, 2, None), CONFIG)], True, accumulation())
