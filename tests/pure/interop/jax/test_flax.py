"""Flax modules, linen and nnx, as Models: equal to Flax alone, trained by every stage, refused by name.

Covers flax_calls, flax_checks, flax_linen and flax_nnx.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx

from pure import optim, random, tree
from pure.generation.sampling import Sampling
from pure.interop.jax.flax import from_flax, kernel_matrices, params_to_flax
from pure.loss.cross_entropy import linear_cross_entropy
from pure.transform.per_sample import per_sample_grad
from stages.dpo import dpo
from stages.grpo import grpo
from stages.ppo import ppo
from stages.pretrain import next_token_loss
from stages.sft import sft
from tests.pure.interop.jax.flax_models import VOCABULARY, WIDTH, Linen, Nnx

TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (4, 7)))
INPUTS, LABELS = TOKENS[:, :-1].contiguous(), TOKENS[:, 1:].contiguous()
BATCH = {"tokens": INPUTS, "labels": LABELS, "batch_position": torch.arange(4)}
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "max_length": 16}


@pytest.fixture(scope="module")
def variables() -> Any:
    return Linen().init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))


@pytest.fixture(scope="module")
def model(variables: Any) -> Any:
    return from_flax(Linen(), variables, **SIZES)


def distance(ours: Any, theirs: Any) -> float:
    pairs = zip(tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(np.abs(x.detach().numpy() - np.asarray(y)).max()) for x, y in pairs)


def losses(params: Any, tokens: Any, labels: Any) -> Any:
    logits = Linen().apply({"params": params}, tokens)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def test_ten_steps_of_sft_equal_flax_with_optax(model: Any, variables: Any) -> None:
    stage = sft(model, optim.adamw(1e-2, weight_decay=0.1))
    state = stage.init(random.key(0))
    theirs = optax.adamw(1e-2, weight_decay=0.1)
    params = variables["params"]
    opt_state = theirs.init(params)
    inputs, labels = INPUTS.numpy(), LABELS.numpy()

    @jax.jit
    def step(params: Any, opt_state: Any) -> Any:
        loss, grads = jax.value_and_grad(lambda p: losses(p, inputs, labels).mean())(params)
        updates, opt_state = theirs.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for _ in range(10):
        state = stage.step(state, BATCH)
        params, opt_state, loss = step(params, opt_state)
        assert float(state.metrics["loss"]) == pytest.approx(float(loss), rel=1e-6)
    assert distance(state.params, params) < 1e-5  # Adam divides by the root of squares that may be tiny
    back = params_to_flax(Linen(), state.params)
    np.testing.assert_allclose(
        Linen().apply(back, inputs), model.forward(state.params, INPUTS), rtol=1e-5, atol=1e-6
    )


def test_gradients_of_each_row(model: Any, variables: Any) -> None:
    loss = partial(next_token_loss, model=model, head=partial(linear_cross_entropy, logits=model.logits))
    ours = per_sample_grad(loss)(model.init(random.key(0)), BATCH, random.key(2))

    def row_loss(params: Any, tokens: Any, labels: Any) -> Any:
        return losses(params, tokens[None], labels[None]).sum()

    theirs = jax.jit(jax.vmap(jax.grad(row_loss), (None, 0, 0)))(
        variables["params"], INPUTS.numpy(), LABELS.numpy()
    )
    assert distance(ours, theirs) < 1e-6


def test_one_step_of_dpo_grpo_and_ppo(model: Any) -> None:
    pairs = {
        "chosen_tokens": INPUTS,
        "chosen_labels": LABELS,
        "rejected_tokens": INPUTS,
        "rejected_labels": LABELS.flip(1),
        "batch_position": torch.arange(4),
    }
    # The second prompt is padded on the left, which the module does not know.
    prompts = {"prompts": TOKENS[:2, :3], "lengths": torch.tensor([3, 2]), "row": torch.arange(2)}

    def score(rollouts: Any) -> torch.Tensor:
        return (rollouts.tokens[:, -4:] % 2 == 0).float().mean(-1)[:, None]

    params, descent = model.init(random.key(0)), optim.sgd(0.1)
    online: dict[str, Any] = {"score": score, "samples": 4, "sampling": Sampling(4)}
    for stage, batch in (
        (dpo(model, descent, reference=params), pairs),
        (grpo(model, descent, beta=0.0, **online), prompts),
        (ppo(model, descent, **online), prompts),
    ):
        state = stage.step(stage.init(random.key(1), params), batch)
        assert int(state.metrics["nonfinite_leaf"]) == -1
        policy = state.params.get("policy", state.params)
        assert not torch.equal(policy["head"]["kernel"], params["head"]["kernel"])


def test_dropout_draws_from_our_key_for_each_row(variables: Any) -> None:
    for module, params in ((Linen(rate=0.5), variables), (Nnx(nnx.Rngs(0)), None)):
        model = from_flax(module, params, **SIZES)
        params, keys = model.init(random.key(0)), random.split(random.key(3), 4)
        found = model.forward(params, INPUTS, key=keys)
        turned = model.forward(params, INPUTS.flip(0), key=torch.stack(keys.unbind()[::-1]))
        torch.testing.assert_close(turned.flip(0), found)
        assert torch.equal(model.forward(params, INPUTS, key=keys), found)
        assert not torch.allclose(model.forward(params, INPUTS, key=random.key(4)), found)


def test_nnx_equals_nnx_and_is_left_alone() -> None:
    module = Nnx(nnx.Rngs(0))
    model = from_flax(module, **SIZES)
    params = model.init(random.key(0))
    assert "layers/1/linear/kernel" in tree.paths(params)
    assert module.layers[0].dropout.deterministic is False
    evaluated = nnx.clone(module)
    evaluated.eval()
    doubled = tree.map(lambda x: 2 * x, params)
    for values in (params, doubled):
        nnx.update(evaluated, params_to_flax(module, values))
        wanted = evaluated(INPUTS.numpy())
        np.testing.assert_allclose(model.forward(values, INPUTS), wanted, rtol=1e-5, atol=1e-6)
    again = from_flax(module, tree.map(lambda x: x.numpy(), doubled), **SIZES)
    assert all(map(torch.equal, tree.leaves(again.init(random.key(0))), tree.leaves(doubled)))


def test_hidden_states_and_a_head(variables: Any) -> None:
    def call(module: Any, tokens: Any, *, positions: Any, segment_ids: Any, train: bool) -> Any:
        return module.hidden(tokens, deterministic=not train)

    model = from_flax(Linen(), variables, call=call, logits=lambda module, x: module.head(x), **SIZES)
    params = model.init(random.key(0))
    hidden = model.hidden(params, INPUTS)
    assert hidden.shape[-1] == model.config.hidden_size == WIDTH
    torch.testing.assert_close(model.logits(params, hidden), model.forward(params, INPUTS))


def test_muon_takes_the_axes_of_kernels(model: Any) -> None:
    params = model.init(random.key(0))
    numbers = kernel_matrices(params)
    assert numbers["layer"]["kernel"] == optim.MuonDimensionNumbers(0, 1)
    assert numbers["head"]["kernel"] is None
    assert numbers["embed"]["embedding"] is None
    attention = linen.MultiHeadDotProductAttention(2)
    shapes = jax.eval_shape(attention.init, jax.random.key(0), jnp.zeros((1, 2, 4)))["params"]
    axes = kernel_matrices(jax.tree.map(lambda x: torch.zeros(x.shape), shapes))
    assert axes["query"]["kernel"] == optim.MuonDimensionNumbers(0, (1, 2))
    assert axes["out"]["kernel"] == optim.MuonDimensionNumbers((0, 1), 2)


class WithStatistics(linen.Module):
    @linen.compact
    def __call__(self, tokens: Any) -> Any:
        return linen.BatchNorm(use_running_average=True)(linen.Embed(VOCABULARY, VOCABULARY)(tokens))


class NnxWithStatistics(Nnx):
    def __init__(self) -> None:
        super().__init__(nnx.Rngs(0))
        self.norm = nnx.BatchNorm(WIDTH, rngs=nnx.Rngs(0))


class WithoutStream(Nnx):
    def __init__(self) -> None:
        super().__init__(nnx.Rngs(0))
        for layer in self.layers:
            layer.dropout = nnx.Dropout(0.5)


@pytest.mark.parametrize(
    ("module", "change", "options", "message"),
    [
        (
            partial(torch.nn.Linear, 2, 2),
            None,
            {},
            "expected a module of flax.linen or flax.nnx, got Linear; .*from_module",
        ),
        (WithStatistics, None, {}, "WithStatistics has the collection 'batch_stats', which changes"),
        (NnxWithStatistics, None, {}, "NnxWithStatistics has the BatchStat norm/mean, which changes"),
        (WithoutStream, None, {}, r"with dropout the module fails: .* rngs=nnx.Rngs\(0\)"),
        (
            partial(Linen, causal=False),
            None,
            {},
            "the module is not causal: the logits before the last token change",
        ),
        (Linen, None, {"vocab_size": 12}, "vocab_size is 12, but the module's logits have 11"),
        (
            Linen,
            lambda p: {**p, "batch_stats": {"mean": jnp.ones(2)}},
            {},
            "has the collection 'batch_stats'",
        ),
        (
            Linen,
            lambda p: {k: x for k, x in p["params"].items() if k != "head"},
            {},
            r"params lack head/kernel",
        ),
        (
            Linen,
            lambda p: {**p["params"], "extra": jnp.ones(2)},
            {},
            "params have extra, which the module does not",
        ),
        (
            Linen,
            lambda p: {**p["params"], "head": {"kernel": jnp.ones((2, 3))}},
            {},
            r"expected \[6, 11\], got \[2, 3\]",
        ),
        (Linen, lambda p: jax.eval_shape(lambda: p), {}, "params embed/embedding is abstract"),
        (Linen, lambda p: {**p["params"], "head": {"kernel": "x"}}, {}, "params head/kernel is a str"),
        (Linen, lambda p: jax.tree.map(lambda x: x.astype(int), p), {}, "is int32; only floats"),
    ],
)
def test_refused(variables: Any, module: Any, change: Any, options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        from_flax(module(), None if change is None else change(variables), **{**SIZES, **options})


def test_packed_rows_are_refused_where_the_module_does_not_take_them(model: Any) -> None:
    packed = {
        "positions": torch.tensor([[0, 1, 2, 0, 1, 2]]),
        "segment_ids": torch.tensor([[0, 0, 0, 1, 1, 1]]),
    }
    with pytest.raises(ValueError, match="from_flax: the batch has packed rows"):
        model.forward(model.init(random.key(0)), INPUTS[:1], **packed)
