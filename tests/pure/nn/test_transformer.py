"""`pure.nn.transformer`, `inputs` and `dropout`: compared with transformers' Llama, Qwen2, Qwen3 and GPT-2; laws
of every model."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig, RopeScaling
from pure.loss.cross_entropy import cross_entropy
from pure.nn.block import block
from pure.nn.dropout import dropout_masks
from pure.nn.norm import norm
from pure.nn.transformer import forward, hidden, init, logits, transformer, transformer_spec
from pure.transform.grad import value_and_grad
from pure.transform.remat import remat
from tests.pure.nn import hugging_face

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = RopeScaling(rope_type="llama3", factor=8.0, original_max_position_embeddings=16)
YARN = RopeScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
LLAMA_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "untied": ("Llama", {"tie_word_embeddings": False}),
    "multi-head": ("Llama", {"num_key_value_heads": 4}),
    "multi-query": ("Llama", {"num_key_value_heads": 1}),
    "head_dim": ("Llama", {"head_dim": 12}),
    "biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "gelu": ("Llama", {"hidden_act": "gelu"}),
    "relu": ("Llama", {"hidden_act": "relu", "rms_norm_eps": 1e-5}),
    "linear": ("Llama", {"rope_scaling": RopeScaling(rope_type="linear", factor=2.0), "rope_theta": 500.0}),
    "llama3": ("Llama", {"rope_scaling": LLAMA3}),
    "yarn": ("Llama", {"rope_scaling": YARN}),
    "qwen2": ("Qwen2", {"attention_bias": "qkv", "rope_theta": 1e6}),
    "qwen3": ("Qwen3", {"qk_norm": True, "head_dim": 16, "rope_theta": 1e6}),
    "qwen3 with biases": ("Qwen3", {"qk_norm": True, "attention_bias": True, "tie_word_embeddings": False}),
}
GPT2 = {
    "use_rms_norm": False,
    "use_rope": False,
    "use_swiglu": False,
    "attention_bias": True,
    "mlp_bias": True,
    "hidden_act": "gelu_tanh",
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
}
CONFIGS = {**{name: fields for name, (_, fields) in LLAMA_FAMILIES.items()}, "gpt2": GPT2}


def tokens(rows: int = 2, length: int = 37, seed: int = 1) -> Tensor:
    return random.randint(random.key(seed), (rows, length), 0, SMALL["vocab_size"]).long()


def loss(model: Any, batch: Tensor, params: Any, **options: Tensor) -> Tensor:
    return cross_entropy(model.forward(params, batch[:, :-1], **options), batch[:, 1:]).sum


@pytest.mark.parametrize("name", LLAMA_FAMILIES)
def test_logits_and_gradients_equal_transformers(name: str) -> None:
    family, fields = LLAMA_FAMILIES[name]
    config = ModelConfig(**{**SMALL, **fields})
    model, peer, batch = transformer(config), hugging_face.random_model(config, family), tokens()
    theirs = dict(peer.named_parameters())
    paths = dict(hugging_face.parameter_names(config))
    assert sorted(paths.values()) == sorted(theirs)
    params = hugging_face.build_params(model.spec, {ours: theirs[name] for ours, name in paths.items()})
    logits = peer(batch, use_cache=False).logits
    torch.testing.assert_close(model.forward(params, batch), logits, rtol=1e-4, atol=1e-4)
    cross_entropy(logits[:, :-1], batch[:, 1:]).sum.backward()
    _, grads = value_and_grad(partial(loss, model, batch))(params)
    assert_grads_close(
        grads,
        hugging_face.build_params(model.spec, {ours: theirs[name].grad for ours, name in paths.items()}),
        1e-4,
    )


def test_logits_and_gradients_equal_gpt2() -> None:
    config = ModelConfig(**{**SMALL, **GPT2})
    model, peer, batch = transformer(config), hugging_face.random_gpt2(config), tokens()
    params = hugging_face.build_params(
        model.spec, hugging_face.gpt2_leaves(dict(peer.named_parameters()), config)
    )
    logits = peer(batch, use_cache=False).logits
    torch.testing.assert_close(model.forward(params, batch), logits, rtol=1e-4, atol=1e-4)
    cross_entropy(logits[:, :-1], batch[:, 1:]).sum.backward()
    _, grads = value_and_grad(partial(loss, model, batch))(params)
    expected = hugging_face.gpt2_leaves({name: p.grad for name, p in peer.named_parameters()}, config)
    assert_grads_close(grads, hugging_face.build_params(model.spec, expected), 1e-4)


def assert_grads_close(ours: Any, theirs: Any, relative: float = 1e-5) -> None:
    """Check errors relative to the leaf's maximum, or to a thousandth of the tree's if that is larger.

    Without rotary positions a bias of the keys has gradient 0, so both of its gradients are rounding errors.
    """
    largest = max(x.abs().max() for x in tree.leaves(theirs))
    for path, a, b in zip(tree.paths(ours), tree.leaves(ours), tree.leaves(theirs), strict=True):
        assert (a - b).abs().max() <= relative * torch.maximum(b.abs().max(), largest / 1000), path


@pytest.mark.parametrize("name", CONFIGS)
def test_decoding_in_parts_with_a_cache_equals_forward(name: str) -> None:
    model = transformer(ModelConfig(**{**SMALL, **CONFIGS[name]}))
    params, batch = model.init(random.key(0)), tokens(length=20)
    whole = model.forward(params, batch)
    cache = model.cache(2, 24)
    parts = []
    for piece in batch.split([9, 1, 1, 9], 1):
        part, cache = model.decode(params, piece, cache)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)
    assert cache.length.tolist() == [20, 20]


@pytest.mark.parametrize("last", [True, torch.tensor([0, 3])])
def test_decoding_returns_the_logits_of_selected_tokens(last: bool | Tensor) -> None:
    model = transformer(ModelConfig(**SMALL))
    params, batch = model.init(random.key(0)), tokens(length=5)
    whole, _ = model.decode(params, batch, model.cache(2, 5))
    selected, cache = model.decode(params, batch, model.cache(2, 5), last=last)
    columns = last if isinstance(last, Tensor) else torch.tensor([4, 4])
    torch.testing.assert_close(selected, whole[torch.arange(2), columns][:, None], rtol=1e-5, atol=1e-6)
    assert cache.length.tolist() == [5, 5]


def test_padding_of_a_ragged_prompt_is_overwritten() -> None:
    model = transformer(ModelConfig(**SMALL))
    params, batch = model.init(random.key(0)), tokens(length=20)
    lengths = torch.tensor([7, 12])
    _, cache = model.decode(params, batch[:, :12], model.cache(2, 24))
    cache = cache._replace(length=lengths)
    after = torch.stack([batch[0, 7:12], batch[1, 12:17]])
    logits, _ = model.decode(params, after, cache)
    for row, start in enumerate(lengths.tolist()):
        alone = model.forward(params, batch[row : row + 1, : start + 5])[:, start:]
        torch.testing.assert_close(logits[row : row + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "yarn", "gpt2"])
@pytest.mark.parametrize("backend", ["naive", "flash", "sdpa"])
def test_documents_in_a_packed_row_equal_documents_alone(name: str, backend: str) -> None:
    model = transformer(ModelConfig(**{**SMALL, **CONFIGS[name]}), backend=backend)
    params, lengths = model.init(random.key(0)), [11, 1, 25]
    documents = tokens(1, sum(lengths)).split(lengths, 1)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    segment_ids = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    packed = model.forward(params, torch.cat(documents, 1), positions=positions, segment_ids=segment_ids)
    apart = torch.cat([model.forward(params, document) for document in documents], 1)
    torch.testing.assert_close(packed, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_vmap_over_params_and_over_samples_equals_a_loop(name: str) -> None:
    model = transformer(ModelConfig(**{**SMALL, **CONFIGS[name]}))
    many, batch = [model.init(random.key(i)) for i in range(3)], tokens()

    def gradient(params: Any, batch: Tensor) -> Any:
        return value_and_grad(partial(loss, model, batch))(params)[1]

    stacked = torch.func.vmap(gradient, (0, None))(tree.stack(many), batch)
    for ours, params in zip(tree.unstack(stacked), many, strict=True):
        assert_grads_close(ours, gradient(params, batch))
    rows = torch.func.vmap(lambda row: gradient(many[0], row[None]))(batch)
    for ours, row in zip(tree.unstack(rows), batch, strict=True):
        assert_grads_close(ours, gradient(many[0], row[None]))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_eager_equals_compiled(name: str) -> None:
    changes = {"num_hidden_layers": 1, "hidden_dropout": 0.1, "attention_dropout": 0.1}
    model = transformer(ModelConfig(**{**SMALL, **CONFIGS[name], **changes}))
    params, batch = model.init(random.key(0)), tokens(length=17)

    def value_and_gradient(params: Any, batch: Tensor, key: Tensor) -> Any:
        return value_and_grad(lambda p: loss(model, batch, p, key=key))(params)

    value, grads = value_and_gradient(params, batch, random.key(3))
    again, compiled = torch.compile(value_and_gradient, backend="aot_eager", fullgraph=True)(
        params, batch, random.key(3)
    )
    torch.testing.assert_close(again, value, rtol=1e-5, atol=1e-5)
    assert_grads_close(compiled, grads)


def test_remat_changes_neither_value_nor_gradient() -> None:
    config = ModelConfig(**SMALL, hidden_dropout=0.2)
    plain, rematerialising = transformer(config), transformer(config, wrap_block=remat)
    params, batch = plain.init(random.key(0)), tokens()
    for key in (None, random.key(1)):
        value, grads = value_and_grad(partial(loss, plain, batch, key=key))(params)
        remat_value, remat_grads = value_and_grad(partial(loss, rematerialising, batch, key=key))(params)
        assert value == remat_value
        assert_grads_close(remat_grads, grads)


def test_bfloat16_logits_are_as_close_to_float64_as_in_transformers() -> None:
    config = ModelConfig(**SMALL)
    model, peer, batch = transformer(config), hugging_face.random_model(config, "Llama"), tokens()
    theirs = dict(peer.named_parameters())
    paths = dict(hugging_face.parameter_names(config))
    params = hugging_face.build_params(model.spec, {ours: theirs[name] for ours, name in paths.items()})
    exact = model.forward(tree.cast(params, torch.float64), batch)
    assert exact.dtype == torch.float64
    our_error = (model.forward(tree.cast(params, torch.bfloat16), batch) - exact).square().mean().sqrt()
    their_error = (peer.to(torch.bfloat16)(batch, use_cache=False).logits - exact).square().mean().sqrt()
    assert our_error <= 1.1 * their_error


# Dropout.


def model_with_dropout(**rates: float) -> Any:
    return transformer(ModelConfig(**{**SMALL, **rates}))


@pytest.mark.parametrize("rates", [{"hidden_dropout": 0.5}, {"attention_dropout": 0.5}])
def test_dropout_is_a_function_of_the_key(rates: dict[str, float]) -> None:
    model, batch = model_with_dropout(**rates), tokens()
    params = model.init(random.key(0))
    plain = model.forward(params, batch)
    assert torch.equal(plain, transformer(ModelConfig(**SMALL)).forward(params, batch))
    first, again, other = (model.forward(params, batch, key=random.key(i)) for i in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, plain)


@pytest.mark.parametrize("rates", [{"hidden_dropout": 0.3}, {"attention_dropout": 0.3}])
def test_dropout_of_a_row_is_the_same_in_any_part_of_the_batch(rates: dict[str, float]) -> None:
    model, batch = model_with_dropout(**rates), tokens(rows=4, length=9)
    params, key = model.init(random.key(0)), random.key(5)
    whole = model.forward(params, batch, key=key)
    keys = torch.func.vmap(random.fold_in, (None, 0))(key, torch.arange(4))
    for i in range(4):
        part = model.forward(params, batch[i : i + 1], key=keys[i : i + 1])
        torch.testing.assert_close(part, whole[i : i + 1], rtol=1e-5, atol=1e-5)


def test_dropout_factors_have_mean_one() -> None:
    """Factors are 0 or 1 / (1 - rate), with mean 1, and differ between layers, within a layer, and by row."""
    config = ModelConfig(**SMALL, hidden_dropout=0.25, attention_dropout=0.4)
    masks = dropout_masks(random.key(0), (8, 16), torch.float32, config)
    assert len(masks) == 2
    for layer in masks:
        assert layer is not None
        shapes = [tuple(x.shape) for x in layer if x is not None]
        assert shapes == [(8, 4, 16, 16), (8, 16, 32), (8, 16, 32)]
        for factors, rate in zip(layer, (0.4, 0.25, 0.25), strict=True):
            values = factors.unique()
            torch.testing.assert_close(values, torch.tensor([0.0, 1 / (1 - rate)]))
            noise = (rate / (1 - rate) / factors.numel()) ** 0.5
            assert abs(factors.mean() - 1) < 4 * noise
    all_factors = torch.cat([x.flatten() for layer in masks for x in layer])
    assert not torch.equal(*(x.attention for x in masks))
    assert not torch.equal(masks[0].attention, masks[0].feedforward)
    assert not torch.equal(masks[0].attention[0], masks[0].attention[1])
    assert all_factors.isfinite().all()


# Initial parameters.


@pytest.mark.parametrize("name", CONFIGS)
def test_init_gives_the_shapes_and_dtypes_of_the_spec(name: str) -> None:
    config = ModelConfig(**{**SMALL, **CONFIGS[name]})
    spec = transformer_spec(config)
    params = init(random.key(0), spec=spec)
    assert tree.paths(params) == tree.paths(spec)
    for path, s, x in zip(tree.paths(spec), tree.leaves(spec), tree.leaves(params), strict=True):
        assert (tuple(x.shape), x.dtype) == (s.shape, s.dtype), path
    assert len({x.untyped_storage().data_ptr() for x in tree.leaves(params)}) == len(tree.leaves(params))


def test_initial_matrices_are_normal_with_the_configured_deviation() -> None:
    """Divided by √(2 layers) for matrices whose output is added to the residual stream."""
    config = ModelConfig(initializer_range=0.05, num_hidden_layers=2)
    params = transformer(config).init(random.key(0))
    layer = params["layers"][1]
    for x, std in (
        (params["embedding"], 0.05),
        (layer["attention"]["q"], 0.05),
        (layer["feedforward"]["gate"], 0.05),
        (layer["attention"]["o"], 0.025),
        (layer["feedforward"]["down"], 0.025),
    ):
        n = x.numel()
        assert abs(x.mean()) < 4 * std / n**0.5
        assert abs(x.std() / std - 1) < 4 / (2 * n) ** 0.5
        kurtosis = (x / std).pow(4).mean()
        assert abs(kurtosis - 3) < 4 * (96 / n) ** 0.5
    assert torch.equal(layer["attention_norm"]["scale"], torch.ones(256))


def test_every_leaf_is_initialised_from_a_key_of_its_own() -> None:
    without_bias, with_bias = ({**SMALL, "attention_bias": flag} for flag in (False, True))
    one, two = (
        transformer(ModelConfig(**fields)).init(random.key(7)) for fields in (without_bias, with_bias)
    )
    assert torch.equal(one["layers"][1]["attention"]["v"], two["layers"][1]["attention"]["v"])
    assert not torch.equal(one["layers"][0]["attention"]["v"], one["layers"][1]["attention"]["v"])
    assert not torch.equal(
        one["embedding"], transformer(ModelConfig(**SMALL)).init(random.key(8))["embedding"]
    )


# Refusals.

BATCH = torch.zeros(2, 5, dtype=torch.int64)
REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"tokens": BATCH[0]}, r"tokens must be \[B, T\], got \(5,\); add a batch axis with \[None\]"),
    ({"tokens": BATCH.float()}, "tokens must be int64 or int32, got torch.float32"),
    ({"tokens": BATCH.to(torch.uint8)}, "tokens must be int64 or int32, got torch.uint8"),
    (
        {"tokens": torch.zeros(1, 65, dtype=torch.int64)},
        "65 tokens exceed max_position_embeddings 64; shorten",
    ),
    (
        {"positions": torch.arange(5)},
        r"positions must be \[B, T\] or \[1, T\] like tokens \(2, 5\), got \(5,\)",
    ),
    ({"positions": torch.zeros(2, 4, dtype=torch.int64)}, r"positions must be .* got \(2, 4\)"),
    ({"positions": torch.zeros(2, 5)}, "positions must be integers, got torch.float32"),
    ({"segment_ids": torch.zeros(2, 1, dtype=torch.int64)}, r"segment_ids must be .* got \(2, 1\)"),
    ({"segment_ids": torch.zeros(3, 5, dtype=torch.int64)}, r"segment_ids must be .* got \(3, 5\)"),
    (
        {"key": torch.zeros(3, 2, dtype=torch.uint32)},
        r"key must be \[2\] or \[B, 2\] with B = 2, got \(3, 2\)",
    ),
)


@pytest.mark.parametrize(
    ("arguments", "message"), REFUSED, ids=lambda x: next(iter(x)) if isinstance(x, dict) else ""
)
def test_arguments_of_wrong_shapes_are_refused(arguments: dict[str, Any], message: str) -> None:
    config = ModelConfig(**SMALL, hidden_dropout=0.1)
    model = transformer(config)
    params = model.init(random.key(0))
    given = {"tokens": BATCH, **arguments}
    # Without the tests' check of shapes in docstrings, which would raise first.
    unchecked = inspect.unwrap(model.hidden.func)
    with pytest.raises(ValueError, match=message):
        unchecked(params, given.pop("tokens"), **model.hidden.keywords, **given)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(
        ValueError, match="attention backend: expected one of auto, naive, flash, sdpa, flex, got 'xla'"
    ):
        transformer(ModelConfig(**SMALL), backend="xla")


def test_forward_equals_its_public_parts_composed_by_hand() -> None:
    config = ModelConfig(**SMALL)
    model, params, batch = transformer(config), transformer(config).init(random.key(0)), tokens()
    layer, last = partial(block, config=config, backend="naive"), partial(norm, config=config)
    states = partial(hidden, config=config, layer=layer, last_norm=last)
    scores = partial(logits, config=config)
    assert torch.equal(forward(params, batch, hidden=states, logits=scores), model.forward(params, batch))
    assert torch.equal(model.logits(params, states(params, batch)), model.forward(params, batch))


@pytest.mark.parametrize("changes", [{"vocab_size": 60}, {"num_hidden_layers": 3}])
def test_params_of_another_model_are_refused(changes: dict[str, int]) -> None:
    model, other = transformer(ModelConfig(**SMALL)), transformer(ModelConfig(**(SMALL | changes)))
    params = other.init(random.key(0))
    with pytest.raises(ValueError, match="params do not fit this config"):
        model.forward(params, tokens())
    with pytest.raises(ValueError, match="params do not fit this config"):
        model.decode(params, tokens(), model.cache(2, 40))


def test_rows_without_tokens_are_refused() -> None:
    model = transformer(ModelConfig(**SMALL))
    with pytest.raises(ValueError, match="are empty; give at least one token"):
        model.forward(model.init(random.key(0)), torch.zeros(1, 0, dtype=torch.int64))


def test_a_name_in_place_of_a_configuration_is_refused() -> None:
    with pytest.raises(TypeError, match=r"write preset\('tiny_config'\)"):
        inspect.unwrap(transformer)("tiny_config")


def test_inputs_that_differ_between_processes_give_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def enter(same: bool, group: Any, config: Any, inputs: list[Tensor]) -> Tensor:
        given.append(len(inputs))
        return torch.tensor(same)

    model = transformer(ModelConfig(**SMALL))
    params, plain = model.init(random.key(0)), tokens(2, 5)
    expected = model.hidden(params, plain)
    for same in (True, False):
        monkeypatch.setattr("pure.nn.transformer._enter", partial(enter, same))
        places = {"positions": torch.arange(5).expand(2, 5), "segment_ids": torch.zeros_like(plain)}
        found = model.hidden(params, plain, **places)
        assert torch.equal(found, expected) if same else found.isnan().all()
    assert set(given) == {3}


def test_dropout_masks_have_the_dtype_that_is_asked_for() -> None:
    config = ModelConfig(**SMALL, attention_dropout=0.25, hidden_dropout=0.5)
    for layer in dropout_masks(random.key(0), (2, 5), torch.bfloat16, config):
        factors = [set(mask.flatten().tolist()) for mask in layer if mask is not None]
        assert factors == [{0.0, float(torch.tensor(1 / 0.75).bfloat16())}, {0.0, 2.0}, {0.0, 2.0}]
        assert {mask.dtype for mask in layer if mask is not None} == {torch.bfloat16}


def test_a_cache_of_another_depth_is_refused() -> None:
    model = transformer(ModelConfig(**SMALL))
    deeper = transformer(ModelConfig(**{**SMALL, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="zip"):
        model.decode(model.init(random.key(0)), tokens(2, 3), deeper.cache(2, 5))
