"""`pure.adapt.lora`: adapters compute the same as PEFT's, and can be transformed like any other params."""

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
from tests.pure.adapt.peer import peft_model, perturb, prompt_tokens, small_model

OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "rank": 4},
    "dora": {"use_dora": True},
    "q and v only": {"targets": ("q", "v"), "alpha": 3.0},
}


def adapted_model(name: str) -> tuple[Model, Tree, LoRAConfig, Model, Tree]:
    """Return (model, params, LoRA options, adapted model, perturbed adapters)."""
    model, base = small_model()
    config = LoRAConfig(**OPTIONS[name])
    ours = bind(model, base, config)
    return model, base, config, ours, perturb(ours.init(random.key(2)))


def mean_square(model: Any, adapters: Any, rows: torch.Tensor) -> torch.Tensor:
    return model.forward(adapters, rows).square().mean()


@pytest.mark.parametrize("name", OPTIONS)
def test_equals_peft_in_value_and_gradient(name: str) -> None:
    _, base, config, ours, adapters = adapted_model(name)
    theirs = peft_model(base, adapters, config)
    logits = theirs(prompt_tokens()).logits
    torch.testing.assert_close(ours.forward(adapters, prompt_tokens()), logits, rtol=1e-4, atol=1e-5)
    logits.square().mean().backward()
    grads = torch.func.grad(lambda a: mean_square(ours, a, prompt_tokens()))(adapters)
    their_grads = {n: p.grad for n, p in theirs.named_parameters() if "lora_" in n}
    part = "base_model.model.model.layers.1.self_attn.q_proj"
    ours_of_q = grads["layers"][1]["attention"]["q"]
    torch.testing.assert_close(
        ours_of_q["a"], their_grads[f"{part}.lora_A.default.weight"], rtol=1e-3, atol=1e-6
    )
    torch.testing.assert_close(
        ours_of_q["b"], their_grads[f"{part}.lora_B.default.weight"], rtol=1e-3, atol=1e-6
    )
    if config.use_dora:
        expected = their_grads[f"{part}.lora_magnitude_vector.default.weight"]
        torch.testing.assert_close(ours_of_q["magnitude"], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_merge_equals_adapters_and_unmerge_restores_the_base(name: str) -> None:
    model, base, config, ours, adapters = adapted_model(name)
    merged = merge(base, adapters, config)
    torch.testing.assert_close(
        model.forward(merged, prompt_tokens()), ours.forward(adapters, prompt_tokens()), rtol=1e-4, atol=1e-5
    )
    if config.use_dora:
        with pytest.raises(ValueError, match="keep the base"):
            unmerge(merged, adapters, config)
    else:
        back = unmerge(merged, adapters, config)
        for x, y in zip(tree.leaves(back), tree.leaves(base), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_new_adapters_and_no_adapters_compute_the_base() -> None:
    model, base = small_model()
    expected = model.forward(base, prompt_tokens())
    for options in ({}, {"use_dora": True}):
        ours = lora(model, base, **options)
        torch.testing.assert_close(
            ours.forward(ours.init(random.key(0)), prompt_tokens()), expected, rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(ours.forward({}, prompt_tokens()), expected, rtol=0, atol=0)


def test_patterns_choose_rank_and_scale() -> None:
    model, base = small_model()
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


def test_vmap_over_several_adapters_equals_a_loop() -> None:
    model, base = small_model()
    ours = lora(model, base, rank=2)
    several = [perturb(ours.init(random.key(i)), seed=i) for i in range(3)]
    together = torch.func.vmap(ours.forward, (0, None))(tree.stack(several), prompt_tokens())
    for one, adapters in zip(together, several, strict=True):
        torch.testing.assert_close(one, ours.forward(adapters, prompt_tokens()), rtol=1e-4, atol=1e-5)


def test_adapters_are_added_to_adapters_and_to_a_merged_base() -> None:
    model, base = small_model()
    first = lora(model, base, rank=2)
    below = perturb(first.init(random.key(1)))
    second = lora(first, below, targets=["a"], rank=1)  # the adapters of a model are params like any others
    assert second.init(random.key(0))["layers"][0]["attention"]["q"]["a"]["a"].shape == (1, 24)
    merged = merge(base, below, LoRAConfig(rank=2))
    over_merged = lora(model, merged, rank=3)
    ours = over_merged.forward(over_merged.init(random.key(2)), prompt_tokens())
    torch.testing.assert_close(ours, first.forward(below, prompt_tokens()), rtol=1e-4, atol=1e-5)


def test_gradients_per_row_by_vmap_and_compiled_gradients_equal_eager_ones() -> None:
    model, base = small_model()
    ours = lora(model, base, rank=2)
    adapters = perturb(ours.init(random.key(1)))
    each = torch.func.vmap(torch.func.grad(lambda a, row: mean_square(ours, a, row[None])), (None, 0))(
        adapters, prompt_tokens(3)
    )
    second = torch.func.grad(lambda a: mean_square(ours, a, prompt_tokens(3)[1:2]))(adapters)
    for x, y in zip(tree.leaves(each), tree.leaves(second), strict=True):
        torch.testing.assert_close(x[1], y, rtol=1e-4, atol=1e-6)
    compiled = jit(torch.func.grad(lambda a: mean_square(ours, a, prompt_tokens())), backend="aot_eager")(
        adapters
    )
    eager = torch.func.grad(lambda a: mean_square(ours, a, prompt_tokens()))(adapters)
    for x, y in zip(tree.leaves(compiled), tree.leaves(eager), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


def test_compiled_generation_equals_eager_over_a_base_of_float32_and_of_nf4() -> None:
    for base in (small_model()[1], quantize_layers(small_model()[1])):
        model = small_model()[0]
        ours = lora(model, base, rank=2)
        adapters = perturb(ours.init(random.key(1)))
        draw = partial(
            generate, ours, adapters, prompt_tokens(), Sampling(6, temperature=0.0), key=random.key(3)
        )
        plain = draw().tokens
        assert torch.equal(draw(compile=stepper(ours, backend="aot_eager")).tokens, plain)


def test_prepared_params_have_the_dtype_of_the_base() -> None:
    """And adapters stored in bfloat16 generate as well."""
    model, base = small_model()
    narrow = quantize_layers(tree.cast(base, torch.bfloat16))
    ours = lora(model, narrow, rank=2)
    prepared = ours.prepare(perturb(ours.init(random.key(1))))
    assert {x.dtype for x in tree.leaves(prepared)} == {torch.bfloat16}
    adapters = tree.cast(ours.init(random.key(1)), torch.bfloat16)
    compiled = stepper(ours, backend="aot_eager")
    their_grads = generate(ours, adapters, prompt_tokens(), Sampling(3), key=random.key(3), compile=compiled)
    assert their_grads.tokens.shape == (2, 3)


def test_dropout_is_a_function_of_the_key_and_the_row() -> None:
    model, base = small_model()
    ours = lora(model, base, rank=2, dropout=0.5)
    adapters = perturb(ours.init(random.key(1)))
    plain, dropped = (
        ours.forward(adapters, prompt_tokens()),
        ours.forward(adapters, prompt_tokens(), key=random.key(4)),
    )
    assert not torch.allclose(plain, dropped, atol=1e-3)
    torch.testing.assert_close(
        ours.forward(adapters, prompt_tokens(), key=random.key(4)), dropped, rtol=0, atol=0
    )
    keys = torch.func.vmap(random.fold_in, (None, 0))(random.key(4), torch.arange(2))
    each = ours.forward(adapters, prompt_tokens(), key=keys)
    second = ours.forward(adapters, prompt_tokens()[1:], key=keys[1:])
    torch.testing.assert_close(second, each[1:], rtol=1e-4, atol=1e-5)


def test_dropout_keeps_the_mean() -> None:
    node = LoRA(torch.zeros(3, 8), torch.ones(2, 8), torch.ones(3, 2), rate=torch.tensor(0.25))
    x = random.normal(random.key(0), (1, 4, 8))
    keys = random.split(random.key(6), 4000)
    together = torch.func.vmap(lambda key: linear(node._replace(key=key[None]), x))(keys)
    torch.testing.assert_close(together.mean(0), linear(node, x), rtol=0, atol=0.2)
    assert together.std(0).min() > 0.1


def test_outputs_and_merged_matrices_have_the_dtype_of_the_base() -> None:
    model, base = small_model()
    narrow = tree.cast(base, torch.bfloat16)
    ours = lora(model, narrow, rank=2)
    adapters = perturb(ours.init(random.key(1)))
    assert ours.forward(adapters, prompt_tokens()).dtype == torch.bfloat16
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
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora(*small_model(), **options)


def test_the_params_of_the_base_in_the_place_of_adapters_are_refused() -> None:
    plain, base = small_model()
    with pytest.raises(TypeError, match=r"expected adapters.*'embedding' is a tensor.*its own init"):
        lora(plain, base, rank=2).forward(base, torch.tensor([[1, 2]]))
