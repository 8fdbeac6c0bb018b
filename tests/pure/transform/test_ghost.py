"""Ghost norms and clipped sums equal those of the gradients themselves, in float64.

They are computed by `examine.py`, from what `book_keeping.py` records with the mode in `recorder.py`, by the
formulas in `ghost_norm.py`, in the order of rows of `example_rows.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pure import optim, random, tree
from pure.adapt.lora import lora
from pure.adapt.qlora import quantize_layers
from pure.transform.book_keeping import record
from pure.transform.example_rows import UnknownUseError
from pure.transform.ghost import clipped_sum, per_sample_norms
from pure.transform.grad import grad
from pure.transform.jit import jit
from pure.transform.per_sample import per_sample_grad
from pure.transform.remat import remat
from pure.types import Tree
from stages.dpo import dpo
from stages.grpo import grpo
from stages.kto import kto
from stages.ppo import ppo
from stages.pretrain import pretrain
from stages.reward import reward
from stages.sft import sft
from stages.stage import Stage, loss_of
from tests.laws.test_stages import DROPOUT, ROLLOUT_OPTIONS, answers, pair_batch, rollout_batch, text_batch
from tests.laws.test_transforms import ONLINE, model_of, online_batch

KEY = random.key(3)
Case = tuple[Callable, Tree, dict[str, Tensor]]


def case_of(made: Stage, batch: Tree) -> Case:
    """A loss with float64 params, none of which is 0, and a batch."""
    values, spec = tree.flatten(tree.cast(made.init(random.key(0)).params, torch.float64))
    noise = [0.05 * random.normal(random.key(70 + i), x.shape).double() for i, x in enumerate(values)]
    params = tree.unflatten(spec, [x + n for x, n in zip(values, noise, strict=True)])
    return loss_of(made), params, {"batch_position": torch.arange(len(tree.leaves(batch)[0])), **batch}


def case(make: Callable, batch: Callable, changes: dict | None = None, **options: Any) -> Case:
    model = model_of(changes, options.pop("wrap", None))
    if options.get("reference"):
        options["reference"] = tree.cast(model.init(random.key(77)), torch.float64)
    made = make(model, optim.sgd(0.1), **options)
    return case_of(made, online_batch(made) if made.parts else batch(0))


def adapted(four_bits: bool = False, **options: Any) -> Case:
    model = model_of()
    base = tree.cast(model.init(random.key(77)), torch.float64)
    base = quantize_layers(base) if four_bits else base
    made = sft(lora(model, base, rank=2, targets=("v", "down"), **options), optim.sgd(0.1))
    return case_of(made, text_batch(0))


def packed() -> Case:
    """Rows of two documents, with repeated tokens."""
    loss, params, batch = case(sft, text_batch)
    rows, length = batch["tokens"].shape
    segments = (torch.arange(length) >= 3).long().expand(rows, -1)
    positions = torch.arange(length) - 3 * segments
    return (
        loss,
        params,
        {**batch, "tokens": batch["tokens"] % 3, "segment_ids": segments, "positions": positions},
    )


def groups() -> Case:
    """An example is a group of two completions, whose rows are adjacent."""
    loss, params, batch = case(grpo, rollout_batch, **ONLINE)
    batch.pop("batch_position")
    return loss, params, tree.map(lambda x: x.flatten(0, 1).unflatten(0, (-1, 2)), batch)


def given_divergence() -> Case:
    loss, params, batch = case(kto, answers, reference=True)
    return (
        loss,
        params,
        {**batch, "divergence": torch.full((len(batch["tokens"]),), 0.1, dtype=torch.float64)},
    )


CASES: dict[str, Callable[[], Case]] = {
    "tied": partial(case, pretrain, text_batch, {"tie_word_embeddings": True}),
    "untied": partial(case, pretrain, text_batch, {"tie_word_embeddings": False}),
    "LayerNorm, biases": partial(
        case,
        pretrain,
        text_batch,
        {"use_rms_norm": False, "use_rope": False, "attention_bias": True, "mlp_bias": True},
    ),
    "qk-norm": partial(case, pretrain, text_batch, {"qk_norm": True}),
    "dropout": partial(case, pretrain, text_batch, DROPOUT),
    "packed rows, repeated tokens": packed,
    "chunk and remat": partial(case, sft, text_batch, chunk=7, wrap=remat),
    "LoRA": adapted,
    "DoRA, dropout": partial(adapted, use_dora=True, dropout=0.2),
    "QLoRA": partial(adapted, four_bits=True),
    "dpo": partial(case, dpo, pair_batch, reference=True),
    "orpo, chunk": partial(case, dpo, pair_batch, variant="orpo", chunk=3),
    "reward": partial(case, reward, pair_batch),
    "kto": given_divergence,
    "grpo": partial(case, grpo, rollout_batch, **ONLINE),
    "grpo, groups": groups,
    "ppo": partial(case, ppo, rollout_batch, value_weight=1.0, **ROLLOUT_OPTIONS),
}


def flat_gradients(loss: Callable, params: Tree, batch: Tree) -> Tensor:
    """[B, numbers]."""
    return torch.cat(
        [g.reshape(len(g), -1) for g in tree.leaves(per_sample_grad(loss)(params, batch, KEY))], 1
    )


def flat(grads: Tree) -> Tensor:
    return torch.cat([g.flatten() for g in tree.leaves(grads)])


@pytest.mark.parametrize("name", CASES)
def test_norms_and_clipped_sums_equal_those_of_the_gradients(name: str) -> None:
    loss, params, batch = CASES[name]()
    record(loss, params, batch, KEY, lambda number, uses, d: None)  # no param is used in an unknown way
    each = flat_gradients(loss, params, batch)
    norms = each.norm(dim=1)
    clip = norms.median()
    expected = ((clip / norms).clamp(max=1)[:, None] * each).sum(0)
    for keep in (True, False):
        total, found = clipped_sum(loss, clip, keep=keep)(params, batch, KEY)
        assert (found - norms).norm() <= 1e-10 * norms.norm()
        assert (flat(total) - expected).norm() <= 1e-10 * expected.norm()
        assert tree.structure(total) == tree.structure(params)


def test_an_infinite_bound_gives_the_gradient_of_the_batch_and_zero_gradients_no_nan() -> None:
    loss, params, batch = CASES["tied"]()
    batch = {
        **batch,
        "labels": torch.where(torch.arange(len(batch["labels"]))[:, None] == 1, -100, batch["labels"]),
    }
    expected = flat(grad(lambda p: loss(p, batch, KEY)[0])(params))
    for bound in (float("inf"), torch.tensor(1e30)):
        total, norms = clipped_sum(loss, bound)(params, batch, KEY)
        assert (flat(total) - expected).norm() <= 1e-12 * expected.norm()
        assert norms[1] == 0
    assert flat(clipped_sum(loss, 1e-3)(params, batch, KEY)[0]).norm() <= 1e-3 * len(norms)


def test_transforms_and_compilers_compute_the_same() -> None:
    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        return (batch["x"] @ params["w"].T + params["b"]).exp().sum(), torch.ones(()), {}

    def norms_at(params: Tree) -> Tensor:
        return per_sample_norms(loss)(params, batch, KEY)

    params = {"w": torch.randn(3, 4, dtype=torch.float64), "b": torch.randn(3, dtype=torch.float64)}
    batch, clipped = {"x": torch.randn(5, 2, 4, dtype=torch.float64)}, clipped_sum(loss, 9.0)
    total, norms = clipped(params, batch, KEY)
    two = tree.stack([params, tree.map(lambda x: 1.5 * x, params)])
    together = torch.func.vmap(clipped, (0, None, None))(two, batch, KEY)
    torch.testing.assert_close(together[1][0], norms)
    torch.testing.assert_close(flat(tree.unstack(together[0])[0]), flat(total))
    compiled, compiled_norms = jit(clipped, backend="aot_eager")(params, batch, KEY)
    torch.testing.assert_close((flat(compiled), compiled_norms), (flat(total), norms))
    ones = tree.map(torch.ones_like, params)
    above, below = (norms_at(tree.map(lambda x, h=h: x + h, params)) for h in (1e-6, -1e-6))
    along = torch.func.jvp(norms_at, (params,), (ones,))[1]
    torch.testing.assert_close(along, (above - below) / 2e-6, rtol=1e-6, atol=0)
    outer = grad(lambda p: norms_at(p).sum())(params)
    torch.testing.assert_close(flat(outer).sum(), along.sum())


class Module(nn.Module):
    """Uses of params of other libraries: positions [1, T], torch's norms, a matrix on the right, a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(11, 8), nn.Embedding(5, 8)
        self.first, self.second = nn.LayerNorm(8), nn.RMSNorm(8)
        self.inner = nn.Linear(8, 6)
        self.outer, self.gain = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.tensor(0.5))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1])[None])
        x = x + self.gain.exp() * (F.gelu(self.inner(self.first(x))) @ self.outer)
        return self.second(x) @ self.embedding.weight.T


def module_case() -> Case:
    torch.manual_seed(0)
    module = Module().double()

    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        logits = torch.func.functional_call(module, params, (batch["tokens"],))
        return (
            F.cross_entropy(logits.flatten(0, 1), batch["tokens"].flatten(), reduction="sum"),
            torch.ones(()),
            {},
        )

    return loss, {k: x.detach() for k, x in module.named_parameters()}, {"tokens": torch.randint(11, (6, 5))}


def test_a_module_of_another_library_is_recorded() -> None:
    loss, params, batch = module_case()
    record(loss, params, batch, KEY, lambda number, uses, d: None)
    expected = flat_gradients(loss, params, batch).norm(dim=1)
    torch.testing.assert_close(per_sample_norms(loss)(params, batch, KEY), expected, rtol=1e-10, atol=0)


class Double(torch.autograd.Function):
    """An operation that no mode of torch sees."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        return 2 * w

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Tensor:
        return 2 * d


UNKNOWN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "einsum": lambda w, x: torch.einsum("bti,oi->bto", x, w),
    "a slice": lambda w, x: x[..., :2] @ w[:, :2].T,
    "a function of its own": lambda w, x: x @ Double.apply(w).T,
    "a derived copy": lambda w, x: torch.func.vmap(lambda row: row @ w.T)(x),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_params_that_are_used_in_unknown_ways_fall_back_to_their_gradients(name: str) -> None:
    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        return UNKNOWN[name](params, batch["x"]).square().sum(), torch.ones(()), {}

    w, batch = torch.randn(4, 3, dtype=torch.float64), {"x": torch.randn(3, 2, 3, dtype=torch.float64)}
    with pytest.raises(UnknownUseError):
        record(loss, w, batch, KEY, lambda number, uses, d: None)
    expected = torch.stack(
        [grad(lambda w, i=i: loss(w, {"x": batch["x"][i : i + 1]}, KEY)[0])(w).norm() for i in range(3)]
    )
    for keep in (True, False):
        total, norms = clipped_sum(loss, float("inf"), keep=keep)(w, batch, KEY)
        torch.testing.assert_close(norms, expected)
        torch.testing.assert_close(total, grad(lambda w: loss(w, batch, KEY)[0])(w))


def test_an_operation_in_place_on_a_lookup_is_recorded() -> None:
    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        x = F.embedding(batch["tokens"], params)
        x *= 3.0
        return x.square().sum(), torch.ones(()), {}

    table, batch = torch.randn(7, 4, dtype=torch.float64), {"tokens": torch.tensor([[1, 2, 1], [3, 3, 3]])}
    record(loss, table, batch, KEY, lambda number, uses, d: None)
    expected = flat_gradients(loss, table, batch).norm(dim=1)
    torch.testing.assert_close(per_sample_norms(loss)(table, batch, KEY), expected)


ORDERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tokens on one axis": lambda w, x: (x.flatten(0, 1) @ w.T).unflatten(0, x.shape[:2]),
    "tokens before rows": lambda w, x: (x.transpose(0, 1) @ w.T).transpose(0, 1),
}


@pytest.mark.parametrize("name", ORDERS)
def test_rows_in_an_order_of_their_own_fall_back_to_their_gradients(name: str) -> None:
    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        return ORDERS[name](params, batch["x"]).square().sum(), torch.ones(()), {}

    w = torch.randn(4, 3, dtype=torch.float64)
    batch = {"x": torch.randn(3, 6, 3, dtype=torch.float64), "unused": torch.zeros(3, 2)}
    record(loss, w, batch, KEY, lambda number, uses, d: None)  # no use is unknown, but the order is
    expected = flat_gradients(loss, w, batch)
    measure = clipped_sum(loss, float("inf"))
    measure(0 * w, batch, KEY)  # gradients of 0 show no order
    for _ in range(2):
        total, norms = measure(w, batch, KEY)
        torch.testing.assert_close(norms, expected.norm(dim=1))
        torch.testing.assert_close(total.flatten(), expected.sum(0))


@pytest.mark.parametrize("mix", [
    lambda y: y - y.mean(0),  # a norm over the batch
    lambda y: y.flip(0) * torch.arange(1.0, 4.0)[:, None, None],  # other rows than the examples
])  # fmt: skip
def test_losses_that_mix_or_reorder_examples_are_refused(mix: Callable[[Tensor], Tensor]) -> None:
    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        return mix(batch["x"] @ params.T).square().sum(), torch.ones(()), {}

    batch = {"x": torch.arange(1.0, 13.0).view(3, 2, 2).sin()}
    with pytest.raises(ValueError, match=r"the gradient of example 0 has norm .* in the batch and .* alone"):
        per_sample_norms(loss)(torch.ones(2, 2), batch, KEY)


def test_bad_bounds_and_batches_are_refused() -> None:
    loss, params, batch = CASES["tied"]()
    for bound in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="clipped_sum: max_norm must be above 0"):
            clipped_sum(loss, bound)
    with pytest.raises(ValueError, match="per_sample_norms: the leaves of a batch must have the same number"):
        per_sample_norms(loss)(params, {**batch, "labels": batch["labels"][:2]}, KEY)


def test_half_precision_is_measured_in_float32() -> None:
    made = pretrain(model_of(), optim.sgd(0.1), compute=torch.bfloat16)
    params, batch = made.init(random.key(0)).params, text_batch(0)
    norms = per_sample_norms(loss_of(made))(params, batch, KEY)
    expected = flat_gradients(loss_of(made), params, batch).norm(dim=1)
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms, expected, rtol=2e-2, atol=0)
