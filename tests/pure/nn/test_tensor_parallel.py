"""Tensor-parallel models against the plain model of one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from pure import random, tree
from pure.adapt.lora import lora
from pure.config import ModelConfig
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.loss.cross_entropy import cross_entropy
from pure.nn.tensor_parallel import tensor_layout, tensor_parallel
from pure.nn.tensor_params import join_params, split_params
from pure.nn.transformer import transformer
from pure.parallel.cut_models import note_cut, record_cut_models
from pure.parallel.group import Group, group_of
from pure.parallel.operators import (
    copy_to_group,
    gather_over_group,
    join_over_group,
    maximum_over_group,
    sum_over_group,
)
from pure.parallel.vocabulary import CutLogits, gather_logits
from pure.transform.grad import value_and_grad
from pure.transform.jit import jit
from pure.transform.remat import remat
from pure.types import Model, Tree
from tests.crew import Crew
from tests.pure.nn.cut_cases import CONFIGS, SIZES, batch, distance, noisy_params, summed_loss

pytestmark = pytest.mark.processes

CASES = (  # configuration, backend, chunk, wrapper of the layers
    ("llama", "naive", None, None),
    ("llama", "flash", 5, remat),
    ("qwen3", "flash", None, None),
    ("qwen3", "naive", None, remat),
    ("gpt2", "sdpa", None, None),
    ("dropout", "naive", None, None),
)


def mesh() -> Any:
    return init_device_mesh("cpu", (torch.distributed.get_world_size(),))


def loss_and_grads(model: Model, params: Tree, name: str, chunk: int | None, func: bool = False) -> Tree:
    loss = partial(summed_loss, model, dropout=name == "dropout", packed=False, chunk=chunk)
    if func:
        grads, value = torch.func.grad_and_value(loss)(params)
        return value, grads
    return value_and_grad(loss)(params)


def plain_model(case: tuple) -> tuple[Model, Tree]:
    name, backend, _, wrap_block = case
    model = transformer(CONFIGS[name], backend=backend, wrap_block=wrap_block)
    return model, noisy_params(model)


def cut_results(cases: tuple[tuple, ...]) -> list[Tree]:
    """Loss, whole gradients, whole initial params and bytes of each case, by autograd and torch.func."""
    results = []
    for case in cases:
        plain, params = plain_model(case)
        model = tensor_parallel(plain, mesh())
        own = split_params(params, model)
        value, grads = loss_and_grads(model, own, case[0], case[2])
        by_func = loss_and_grads(model, own, case[0], None, func=True)
        sizes = {path: x.numel() for path, x in zip(tree.paths(own), tree.leaves(own), strict=True)}
        assert [x.shape for x in tree.leaves(model.spec)] == [x.shape for x in tree.leaves(own)]
        assert distance(join_params(own, model), params) == 0
        first = join_params(model.init(random.key(0)), model)
        results.append((value, join_params(grads, model), join_params(by_func[1], model), first, sizes))
    return results


def test_loss_gradients_and_first_params_equal_one_process(two: Crew) -> None:
    members = two.run(cut_results, CASES)
    for i, case in enumerate(CASES):
        plain, params = plain_model(case)
        value, grads = loss_and_grads(plain, params, case[0], case[2])
        results = [member[i] for member in members]
        assert results[0][0] == results[1][0]
        assert distance(results[0][1], results[1][1]) == 0, "replicated gradients have the same bits"
        torch.testing.assert_close(results[0][0], value, rtol=1e-6, atol=0)
        assert distance(results[0][1], grads) < 1e-6, case
        assert distance(results[0][2], grads) < 1e-6, case
        assert distance(results[0][3], plain.init(random.key(0))) == 0
        layout = tensor_layout(params, plain.config)
        for path, whole in zip(tree.paths(params), tree.leaves(params), strict=True):
            assert results[0][4][path] * (1 if layout[path] is None else 2) == whole.numel(), path


def derivatives_of_operators() -> dict[str, Any]:
    """Derivatives of a function of two replicated vectors, of which each process computes a part."""
    group = group_of("test", mesh())
    x = torch.tensor([0.5, 1.0, 2.0])
    tests: dict[str, Callable[..., Any]] = {
        "grad": torch.func.grad(partial(two_parts, group)),
        "hessian": torch.func.hessian(partial(two_parts, group)),
        "reverse": torch.func.jacrev(torch.func.grad(partial(two_parts, group))),
        "vmap": lambda x: torch.func.vmap(torch.func.grad(partial(two_parts, group)))(
            torch.stack([x, 2 * x])
        ),
    }
    return {name: test(x) for name, test in tests.items()}


def two_parts(group: Group | None, x: Tensor) -> Tensor:
    """Σ_r (r + 1) (x² - max x)² + Σ (x_gathered)³, with or without processes."""
    ranks = (0, 1) if group is None else (group.rank,)
    top = maximum_over_group(x, group)
    parts = [(rank + 1.0) * (copy_to_group(x, group).square() - top).square().sum() for rank in ranks]
    halves = [copy_to_group(x, group) * (rank + 1.0) for rank in ranks]
    gathered = torch.cat(halves) if group is None else gather_over_group(halves[0], group, 0)
    seen = [(rank + 2.0) * gathered.pow(3).sum() for rank in ranks]
    joined = torch.cat(halves) if group is None else join_over_group(halves[0], group, 0)
    return sum_over_group(torch.stack(parts + seen).sum(), group) + joined.square().sum()


def test_the_operators_have_right_derivatives_under_every_transform(two: Crew) -> None:
    x = torch.tensor([0.5, 1.0, 2.0])
    alone = partial(two_parts, None)
    expected = {
        "grad": torch.func.grad(alone)(x),
        "hessian": torch.func.hessian(alone)(x),
        "vmap": torch.func.vmap(torch.func.grad(alone))(torch.stack([x, 2 * x])),
    }
    expected["reverse"] = expected["hessian"]
    for results in two.run(derivatives_of_operators):
        torch.testing.assert_close(results, expected)


def compiled_results() -> tuple[Tree, Tree]:
    """Loss and gradients, in plain code and with each layer compiled."""
    plain = transformer(replace(CONFIGS["qwen3"], num_hidden_layers=1))
    model = tensor_parallel(plain, mesh())
    own = split_params(noisy_params(plain), model)
    compute = partial(loss_and_grads, model, name="qwen3", chunk=None)
    return compute(own), jit(compute, regions=True, backend="aot_eager")(own)


def test_compiled_layers_compute_the_same(two: Crew) -> None:
    for expected, result in two.run(compiled_results):
        assert distance(result, expected) < 1e-6


def generated_tokens() -> Tensor:
    plain, params = plain_model(CASES[2])
    model = tensor_parallel(plain, mesh())
    own = model.prepare(split_params(params, model))
    prompts = batch()["tokens"][:, :4]
    return generate(model, own, prompts, Sampling(max_new_tokens=6), key=random.key(1)).tokens


def test_generated_tokens_are_those_of_one_process(two: Crew) -> None:
    plain, params = plain_model(CASES[2])
    prompts = batch()["tokens"][:, :4]
    expected = generate(plain, params, prompts, Sampling(max_new_tokens=6), key=random.key(1)).tokens
    for tokens in two.run(generated_tokens):
        assert tokens.equal(expected)


def errors_of_use() -> list[str]:
    """Messages of mistakes, on each process."""
    plain, params = plain_model(CASES[0])
    model = tensor_parallel(plain, mesh())
    own = split_params(params, model)
    tokens = batch()["tokens"] // 2
    rank = torch.distributed.get_rank()
    adapted = lora(model, own)
    logits = model.forward(own, tokens)
    mistakes: tuple[Callable[[], Any], ...] = (
        lambda: model.hidden(params, tokens),
        lambda: adapted.hidden(adapted.init(random.key(0)), tokens),
        lambda: logits.argmax(-1),
        lambda: logits[:, -1],
        lambda: torch.softmax(logits, -1),
        lambda: split_params(own, model),
        lambda: split_params({"embedding": params["embedding"][:16]}, model),
        lambda: model.hidden(own, tokens + rank),
        lambda: model.hidden(own, tokens[:, : 3 + rank]),
        lambda: model.hidden(own, tokens, key=random.key(rank)),
        lambda: model.init(random.key(rank)),
        lambda: split_params(tree.map(lambda x: x + rank, params), model),
        lambda: tensor_parallel(model, mesh()),
    )
    messages = []
    for mistake in mistakes:
        with pytest.raises((ValueError, TypeError, AttributeError)) as error:
            mistake()
        messages.append(str(error.value))
    assert gather_logits(logits).shape == (*tokens.shape, 32)
    unknown = model.hidden(own, torch.full((1, 1), 32))
    assert bool(unknown.isnan().all())
    return messages


def test_mistakes_are_refused_on_all_processes(two: Crew) -> None:
    first, second = two.run(errors_of_use)
    assert first == second
    expected = (
        "cut them with split_params",
        "attention/q is a LoRA",
        "join them first",
        "join them first",
        "join them first",
        "params differ",
        "give whole",
        "tokens, positions or keys differ between the 2 processes",
        "tokens, positions or keys differ between the 2 processes",
        "tokens, positions or keys differ between the 2 processes",
        "keys of init differ",
        "params differ",
        "cut already",
    )
    for message, words in zip(first, expected, strict=True):
        assert words in message


@pytest.mark.parametrize(
    "field", ["num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"]
)
def test_sizes_that_do_not_divide_are_refused(field: str) -> None:
    sizes = SIZES | {"num_attention_heads": 6, "num_key_value_heads": 6, "hidden_size": 24, "vocab_size": 36}
    sizes |= {"vocab_size": 37} if field == "vocab_size" else {}
    sizes |= {"intermediate_size": 25} if field == "intermediate_size" else {}
    sizes |= {"num_key_value_heads": 2} if field == "num_key_value_heads" else {}
    sizes |= (
        {"num_attention_heads": 5, "num_key_value_heads": 5, "hidden_size": 20}
        if "attention" in field
        else {}
    )
    with pytest.raises(ValueError, match=f"tensor_parallel: {field} {sizes[field]} does not divide by 3"):
        tensor_parallel(transformer(ModelConfig(**sizes)), Group(0, 3, None))


def test_other_models_are_refused() -> None:
    model = transformer(CONFIGS["llama"])
    adapted = lora(model, model.init(random.key(0)))
    with pytest.raises(TypeError, match=r"expected a model of pure\.nn\.transformer"):
        tensor_parallel(adapted, Group(0, 2, None))
    with pytest.raises(ValueError, match="expected a model of tensor_parallel"):
        join_params({}, model)


def test_one_process_alone_computes_the_plain_loss() -> None:
    logits = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, -100, 7], [0, 2, 3]])
    cut = CutLogits(logits, Group(0, 1, None))
    for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.1}):
        torch.testing.assert_close(
            cross_entropy(cut, labels, **options), cross_entropy(logits, labels, **options)
        )
    with pytest.raises(ValueError, match=r"expected labels in 0 \.\. 7"):
        cross_entropy(cut, torch.full((2, 3), 8))


def test_a_layout_names_leaves_of_trees_like_the_params_only() -> None:
    config = CONFIGS["llama"]
    params = transformer(config).init(random.key(0))
    state = {"params": params, "mu": params, "count": 0, "value": {"head": 0, "model": params}, "head": 0}
    layout = tensor_layout(state, config)
    assert {path for path, axis in layout.items() if axis is None and "norm" not in path} == {
        "count",
        "head",
        "value/head",
    }
    assert layout["value/model/layers/1/attention/o"] == 1
    assert layout["mu/embedding"] == 0


def test_cut_models_are_recorded_once_and_only_inside() -> None:
    group = Group(0, 2, None)
    note_cut(group, "config")
    with record_cut_models() as outer, record_cut_models() as models:
        note_cut(group, "config")
        note_cut(group, "config")
    assert len(models) == 1
    assert not outer
