"""Context-parallel models against the plain model of one process."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from pure import random, tree
from pure.adapt.lora import lora
from pure.loss.cross_entropy import linear_cross_entropy
from pure.nn.context_parallel import Places, context_parallel, own_places
from pure.nn.naive import causal_mask
from pure.nn.transformer import transformer
from pure.parallel.group import Group
from pure.transform.grad import value_and_grad
from pure.transform.memory import peak
from pure.transform.remat import remat
from pure.types import Model, Tree
from tests.crew import Crew
from tests.pure.nn.cut_cases import CONFIGS, batch, distance, noisy_params, summed_loss

pytestmark = pytest.mark.processes

CASES = (  # configuration, backend, packed rows, wrapper of the layers
    ("llama", "naive", True, None), ("qwen3", "flash", True, remat), ("gpt2", "sdpa", True, None),
    ("llama", "sdpa", False, None), ("dropout", "naive", True, None), ("dropout", "flash", False, None),
)  # fmt: skip


def mesh() -> Any:
    return init_device_mesh("cpu", (torch.distributed.get_world_size(),))


def plain_model(case: tuple) -> tuple[Model, Tree]:
    name, backend, _, wrap_block = case
    model = transformer(CONFIGS[name], backend=backend, wrap_block=wrap_block)
    return model, noisy_params(model)


def loss_and_grads(model: Model, params: Tree, case: tuple) -> Tree:
    loss = partial(summed_loss, model, dropout=case[0] == "dropout", packed=case[2])
    return value_and_grad(loss)(params)


def cut_results(cases: tuple[tuple, ...]) -> list[Tree]:
    results = []
    for case in cases:
        plain, params = plain_model(case)
        results.append(loss_and_grads(context_parallel(plain, mesh()), params, case))
    return results


def test_loss_and_gradients_equal_one_process(two: Crew) -> None:
    """Rows of 11 places, which two processes do not divide."""
    members = two.run(cut_results, CASES)
    for i, case in enumerate(CASES):
        value, grads = loss_and_grads(*plain_model(case), case)
        results = [member[i] for member in members]
        assert distance(results[0], results[1]) == 0, "all processes have the same bits"
        torch.testing.assert_close(results[0][0], value, rtol=1e-6, atol=0)
        assert distance(results[0][1], grads) < 1e-6, case


def adapted_results() -> Tree:
    plain, params = plain_model(CASES[0])
    data = batch()["tokens"]
    model = lora(context_parallel(plain, mesh()), params, rank=2, use_dora=True)
    adapters = adapters_of(plain, params)
    with_dropout = lora(context_parallel(plain, mesh()), params, rank=2, dropout=0.1)
    with pytest.raises(ValueError, match="the dropout of adapters"):
        with_dropout.hidden(with_dropout.init(random.key(0)), data, key=random.key(1))
    return value_and_grad(lambda a: model.hidden(a, data).square().sum())(adapters)


def adapters_of(plain: Model, params: Tree) -> Tree:
    return tree.map(lambda x: x + 0.1, lora(plain, params, rank=2, use_dora=True).init(random.key(1)))


def test_adapters_of_a_context_parallel_model(two: Crew) -> None:
    plain, params = plain_model(CASES[0])
    model = lora(plain, params, rank=2, use_dora=True)
    data = batch()["tokens"]
    expected = value_and_grad(lambda a: model.hidden(a, data).square().sum())(adapters_of(plain, params))
    for result in two.run(adapted_results):
        assert distance(result, expected) < 2e-6


def peak_of_gradient(model: Model, params: Tree) -> int:
    """Bytes that a gradient of one row of 512 tokens allocates at its peak."""
    tokens = torch.arange(512)[None] % 32
    loss = partial(linear_cross_entropy, logits=model.logits, chunk=64)
    compute = value_and_grad(lambda p: loss(p, model.hidden(p, tokens), tokens).sum)
    return peak(compute, params)


def cut_peak() -> int:
    plain = transformer(CONFIGS["llama"], backend="flash")
    return peak_of_gradient(context_parallel(plain, mesh()), plain.init(random.key(0)))


def test_half_of_the_places_takes_little_more_than_half_of_the_memory(two: Crew) -> None:
    plain = transformer(CONFIGS["llama"], backend="flash")
    whole = peak_of_gradient(plain, plain.init(random.key(0)))
    assert max(two.run(cut_peak)) < 0.65 * whole


def test_places_are_padded_and_cut() -> None:
    tokens = torch.arange(10).view(2, 5)
    places = Places(tokens, torch.arange(5)[None], tokens // 3, [None], None)
    first, second = (own_places(places, Group(rank, 2, None)) for rank in range(2))
    assert torch.cat([first.tokens, second.tokens], 1).tolist() == [[0, 1, 2, 3, 4, 0], [5, 6, 7, 8, 9, 0]]
    assert second.positions.tolist() == [[3, 4, 0]]
    assert second.start is not None
    assert second.start.tolist() == [3, 3]
    assert second.segment_ids is not None
    assert second.segment_ids.shape == (2, 6)


def test_a_mask_of_some_queries_is_that_part_of_the_mask_of_all() -> None:
    segments = batch()["segment_ids"]
    whole = causal_mask(range(11), range(11), None, segments)
    part = causal_mask(range(4), range(11), torch.full((3,), 5), segments)
    assert part.equal(whole[:, 5:9])


def test_a_model_is_cut_once() -> None:
    model = context_parallel(transformer(CONFIGS["llama"]), Group(0, 1, None))
    with pytest.raises(ValueError, match="cut already"):
        context_parallel(model, Group(0, 2, None))
    adapted = lora(model, model.init(random.key(0)))
    with pytest.raises(TypeError, match="context_parallel: expected a model"):
        context_parallel(adapted, Group(0, 2, None))
