"""Adapters compute what PEFT's do, and are params like any others."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from pure import random, tree
from pure.adapt.lora import bind, lora, merge, unmerge
from pure.adapt.lora_config import LoRAConfig
from pure.adapt.qlora import quantize_layers
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.generation.stepper import stepper
from pure.nn.linear import LoRA, linear
from pure.transform.jit import jit
from pure.types import Model, Tree
from tests.pure.adapt.peer import moved, peft_model, small, tokens

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "rank": 4},
    "dora": {"use_dora": True},
    "of two matrices": {"targets": ("q", "v"), "alpha": 3.0},
}


def adapted(name: str) -> tuple[Model, Tree, LoRAConfig, Model, Tree]:
    """The small model and its params; options of a kind, the model adapted by them, and adapters that were
    moved."""
    model, base = small()
    config = LoRAConfig(**KINDS[name])
    ours = bind(model, base, config)
    return model, base, config, ours, moved(ours.init(random.key(2)))


def total(model: Any, adapters: Any, rows: torch.Tensor) -> torch.Tensor:
    return model.forward(adapters, rows).square().mean()


@pytest.mark.parametrize("name", KINDS)
def test_equals_peft_in_value_and_gradient(name: str) -> None:
    _, base, config, ours, adapters = adapted(name)
    theirs = peft_model(base, adapters, config)
    expected = theirs(tokens()).logits
    torch.testing.assert_close(ours.forward(adapters, tokens()), expected, rtol=1e-4, atol=1e-5)
    expected.square().mean().backward()
    grads = torch.func.grad(lambda a: total(ours, a, tokens()))(adapters)
    found = {n: p.grad for n, p in theirs.named_parameters() if "lora_" in n}
    part = "base_model.model.model.layers.1.self_attn.q_proj"
    mine = grads["layers"][1]["attention"]["q"]
    torch.testing.assert_close(mine["a"], found[f"{part}.lora_A.default.weight"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(mine["b"], found[f"{part}.lora_B.default.weight"], rtol=1e-3, atol=1e-6)
    if config.use_dora:
        length = found[f"{part}.lora_magnitude_vector.default.weight"]
        torch.testing.assert_close(mine["magnitude"], length, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_merged_equals_unmerged(name: str) -> None:
    model, base, config, ours, adapters = adapted(name)
    merged = merge(base, adapters, config)
    torch.testing.assert_close(
        model.forward(merged, tokens()), ours.forward(adapters, tokens()), rtol=1e-4, atol=1e-5
    )
    if config.use_dora:
        with pytest.raises(ValueError, match="keep the base"):
            unmerge(merged, adapters, config)
    else:
        back = unmerge(merged, adapters, config)
        for x, y in zip(tree.leaves(back), tree.leaves(base), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_begins_as_the_base_and_no_adapter_is_the_base() -> None:
    model, base = small()
    expected = model.forward(base, tokens())
    for options in ({}, {"use_dora": True}):
        ours = lora(model, base, **options)
        torch.testing.assert_close(
            ours.forward(ours.init(random.key(0)), tokens()), expected, rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(ours.forward({}, tokens()), expected, rtol=0, atol=0)


def test_patterns_choose_rank_and_scale() -> None:
    model, base = small()
    ours = lora(
        model,
        base,
        targets=["attention/q", "layers/*/feedforward/*", "v"][1:],
        rank=2,
        rank_pattern={"layers/1/*": 5},
        alpha_pattern={"v": 1.0},
    )
    adapters = ours.init(random.key(0))
    assert [list(layer) for layer in adapters["layers"]] == [["attention", "feedforward"]] * 2
    assert list(adapters["layers"][0]["attention"]) == ["v"]
    assert adapters["layers"][0]["feedforward"]["up"]["a"].shape == (2, 24)
    assert adapters["layers"][1]["feedforward"]["up"]["a"].shape == (5, 24)
    scales = {path: site.scale for path, site in ours.hidden.keywords["attached"].keywords["adapted"].items()}
    assert scales["layers/0/attention/v"] == 0.5
    assert scales["layers/1/attention/v"] == 0.2
    assert scales["layers/0/feedforward/up"] == 8.0


def test_several_adapters_run_over_one_base() -> None:
    model, base = small()
    ours = lora(model, base, rank=2)
    several = [moved(ours.init(random.key(i)), seed=i) for i in range(3)]
    together = torch.func.vmap(ours.forward, (0, None))(tree.stack(several), tokens())
    for one, adapters in zip(together, several, strict=True):
        torch.testing.assert_close(one, ours.forward(adapters, tokens()), rtol=1e-4, atol=1e-5)


def test_adapters_upon_adapters() -> None:
    model, base = small()
    first = lora(model, base, rank=2)
    below = moved(first.init(random.key(1)))
    second = lora(first, below, targets=["a"], rank=1)  # the adapters of a model are params like any others
    assert second.init(random.key(0))["layers"][0]["attention"]["q"]["a"]["a"].shape == (1, 24)
    merged = merge(base, below, LoRAConfig(rank=2))
    upon = lora(model, merged, rank=3)
    torch.testing.assert_close(
        upon.forward(upon.init(random.key(2)), tokens()), first.forward(below, tokens()), rtol=1e-4, atol=1e-5
    )


def test_gradients_one_by_one_and_compiled() -> None:
    model, base = small()
    ours = lora(model, base, rank=2)
    adapters = moved(ours.init(random.key(1)))
    each = torch.func.vmap(torch.func.grad(lambda a, row: total(ours, a, row[None])), (None, 0))(
        adapters, tokens(3)
    )
    alone = torch.func.grad(lambda a: total(ours, a, tokens(3)[1:2]))(adapters)
    for x, y in zip(tree.leaves(each), tree.leaves(alone), strict=True):
        torch.testing.assert_close(x[1], y, rtol=1e-4, atol=1e-6)
    compiled = jit(torch.func.grad(lambda a: total(ours, a, tokens())), backend="aot_eager")(adapters)
    eager = torch.func.grad(lambda a: total(ours, a, tokens()))(adapters)
    for x, y in zip(tree.leaves(compiled), tree.leaves(eager), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


def test_generates_merged_and_unmerged_alike() -> None:
    for base in (small()[1], quantize_layers(small()[1])):
        model = small()[0]
        ours = lora(model, base, rank=2)
        adapters = moved(ours.init(random.key(1)))
        draw = partial(generate, ours, adapters, tokens(), Sampling(6, temperature=0.0), key=random.key(3))
        plain = draw().tokens
        assert torch.equal(draw(compile=stepper(ours, backend="aot_eager")).tokens, plain)


def test_prepared_params_have_the_dtype_of_the_base() -> None:
    model, base = small()
    narrow = quantize_layers(tree.cast(base, torch.bfloat16))
    ours = lora(model, narrow, rank=2)
    prepared = ours.prepare(moved(ours.init(random.key(1))))
    assert {x.dtype for x in tree.leaves(prepared)} == {torch.bfloat16}
    adapters = tree.cast(ours.init(random.key(1)), torch.bfloat16)
    compiled = stepper(ours, backend="aot_eager")
    found = generate(ours, adapters, tokens(), Sampling(3), key=random.key(3), compile=compiled)
    assert found.tokens.shape == (2, 3)


def test_dropout_is_a_function_of_the_key_and_the_row() -> None:
    model, base = small()
    ours = lora(model, base, rank=2, dropout=0.5)
    adapters = moved(ours.init(random.key(1)))
    plain, dropped = ours.forward(adapters, tokens()), ours.forward(adapters, tokens(), key=random.key(4))
    assert not torch.allclose(plain, dropped, atol=1e-3)
    torch.testing.assert_close(ours.forward(adapters, tokens(), key=random.key(4)), dropped, rtol=0, atol=0)
    keys = torch.func.vmap(random.fold_in, (None, 0))(random.key(4), torch.arange(2))
    each = ours.forward(adapters, tokens(), key=keys)
    second = ours.forward(adapters, tokens()[1:], key=keys[1:])
    torch.testing.assert_close(second, each[1:], rtol=1e-4, atol=1e-5)


def test_dropout_keeps_the_mean() -> None:
    node = LoRA(torch.zeros(3, 8), torch.ones(2, 8), torch.ones(3, 2), rate=torch.tensor(0.25))
    x = random.normal(random.key(0), (1, 4, 8))
    keys = random.split(random.key(6), 4000)
    together = torch.func.vmap(lambda key: linear(node._replace(key=key[None]), x))(keys)
    torch.testing.assert_close(together.mean(0), linear(node, x), rtol=0, atol=0.2)
    assert together.std(0).min() > 0.1


def test_follows_the_dtype_of_its_base() -> None:
    model, base = small()
    narrow = tree.cast(base, torch.bfloat16)
    ours = lora(model, narrow, rank=2)
    adapters = moved(ours.init(random.key(1)))
    assert ours.forward(adapters, tokens()).dtype == torch.bfloat16
    assert merge(narrow, adapters, LoRAConfig(rank=2))["layers"][0]["attention"]["q"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be a whole number"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        (
            {"targets": ["query"]},
            "'query' matches no matrix of the base; there are down, gate, k, o, q, up, v",
        ),
        ({"rank_pattern": {"layers/9/*": 2}}, "matches no matrix"),
        ({"targets": []}, "targets is empty"),
        ({"dropout": 1.0}, r"a rate in \[0, 1\)"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora(*small(), **options)
