"""DP-SGD: clipped sums equal a loop over examples and Opacus; the noise comes from the step's key."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.nn.position import rotate, rotation
from pure.nn.transformer import transformer
from pure.transform.dp_sgd import METRICS, add_noise, clipped, epsilon
from pure.transform.ghost import per_sample_norms
from pure.transform.grad import grad
from pure.types import Tree
from stages.checkpoint.fingerprint import fingerprint
from stages.dpo import dpo
from stages.population import population
from stages.pretrain import pretrain
from stages.stage import loss_of
from tests.laws.test_stages import pair_batch, text_batch
from tests.laws.test_transforms import model_of

KEY = random.key(3)
MODEL = model_of({"hidden_dropout": 0.1})


def uneven() -> Tree:
    """Rows with different numbers of labels, one of them without any."""
    batch = text_batch(0)
    shown = torch.arange(batch["labels"].shape[1]) <= torch.arange(len(batch["labels"]))[:, None] - 1
    return {**batch, "labels": torch.where(shown, batch["labels"], -100)}


def naive(loss: Any, params: Tree, batch: Tree, bound: float) -> tuple[Tree, Tensor, Tensor]:
    """The clipped sum, the mean of the examples' mean losses, and the norms, by a loop."""
    rows = len(batch["tokens"])
    total, losses, norms = tree.zeros_like(params), [], []
    for i in range(rows):
        row = {**tree.map(lambda x, i=i: x[i : i + 1], batch), "batch_position": torch.tensor([i])}
        value, count, _ = loss(params, row, KEY)
        if count == 0:
            continue
        g = tree.map(lambda g, n=count: g / n, grad(lambda p, row=row: loss(p, row, KEY)[0])(params))
        norms.append(tree.norm(g))
        losses.append(value / count)
        total = tree.map(lambda t, x, n=norms[-1]: t + x * (bound / n).clamp(max=1), total, g)
    return total, torch.stack(losses).sum() / rows, torch.stack(norms)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_example_is_clipped_by_the_norm_of_its_mean_loss(keep: bool, weighted: bool) -> None:
    loss, batch = loss_of(pretrain(MODEL, optim.sgd(0.1))), uneven()
    params = tree.cast(MODEL.init(random.key(0)), torch.float64)
    bound = 1.001 * float(naive(loss, params, batch, 1.0)[2].median())  # no norm equals it
    kept = torch.tensor([0.0, *[1.0] * (len(batch["tokens"]) - 1)]) if weighted else None
    given = batch if kept is None else {**batch, "weights": kept}
    result, memory = clipped(bound, keep=keep, parts=1 + keep).compute(loss, params, given, KEY, {}, None)
    share, norm = (total / count for total, count in (result.metrics[name] for name in METRICS))
    alone = (
        batch if kept is None else {**batch, "labels": torch.where(kept[:, None] > 0, batch["labels"], -100)}
    )
    expected, mean, norms = naive(loss, params, alone, bound)
    assert tree.norm(tree.map(torch.sub, result.grads, expected)) <= 1e-10 * tree.norm(expected)
    torch.testing.assert_close(result.sum / result.count, mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(norm, norms.mean(), rtol=1e-10, atol=0)
    assert share == (norms > bound).double().mean()
    assert result.count == len(batch["tokens"])
    assert memory == {}


def test_a_loss_scale_changes_nothing() -> None:
    loss, params = loss_of(pretrain(MODEL, optim.sgd(0.1))), MODEL.init(random.key(0))
    plain, scaled = (
        clipped(0.5).compute(loss, params, uneven(), KEY, {}, scale)[0]
        for scale in (None, torch.tensor(1024.0))
    )
    torch.testing.assert_close(scaled.grads, plain.grads, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        (scaled.sum, scaled.metrics[METRICS[1]]), (plain.sum, plain.metrics[METRICS[1]])
    )


def test_noise_has_its_deviation_and_depends_on_the_key_and_the_leaf_alone() -> None:
    zeros = {"a": torch.zeros(40_000), "b": torch.zeros(40_000, dtype=torch.float64)}
    first, second = add_noise(zeros, KEY, 3.0), add_noise(zeros, random.key(4), 3.0)
    for noise in (*first.values(), *second.values()):
        assert (noise.std() - 3).abs() < 4 * 3 / (2 * len(noise)) ** 0.5
        assert noise.mean().abs() < 4 * 3 / len(noise) ** 0.5
    assert not torch.equal(first["a"], second["a"])
    assert not torch.equal(first["a"].double(), first["b"])
    assert torch.equal(add_noise({"a": zeros["a"]}, KEY, 3.0)["a"], first["a"])


def test_a_stage_adds_the_noise_once_to_the_mean_of_its_rows() -> None:
    make = lambda noise: pretrain(MODEL, optim.sgd(1.0), gradient=clipped(0.5, noise=noise))  # noqa: E731
    state, batch = make(0.0).init(random.key(0)), uneven()
    without, once, again = (make(noise).step(state, batch) for noise in (0.0, 2.0, 2.0))
    assert set(METRICS) <= set(once.metrics)
    noise = torch.cat(
        [
            (a - b).flatten() * len(batch["tokens"])
            for a, b in zip(tree.leaves(once.params), tree.leaves(without.params), strict=True)
        ]
    )
    assert (noise.std() - 1).abs() < 4 / (2 * len(noise)) ** 0.5  # 2.0 times the bound 0.5
    for a, b in zip(tree.leaves(once), tree.leaves(again), strict=True):
        assert torch.equal(a, b)


def test_a_private_stage_keeps_its_fingerprint_and_vmaps() -> None:
    model = model_of()
    made = dpo(model, optim.sgd(0.1), reference=model.init(random.key(77)), gradient=clipped(0.1, noise=0.5))
    before, state = fingerprint(made), made.init(random.key(0))
    after = made.step(state, pair_batch(0))
    assert fingerprint(made) == before
    assert any("max_norm" in path for path in before)
    both = population(made, 2)
    members = tree.unstack(both.step(both.init(random.key(0)), pair_batch(0)))
    for i, member in enumerate(members):
        alone = made.step(tree.map(lambda x, i=i: x[i], both.init(random.key(0))), pair_batch(0))
        torch.testing.assert_close(member.params, alone.params, rtol=1e-5, atol=1e-6)
    assert after.metrics["clip/fraction"] > 0


class Peer(nn.Module):
    """A model of one layer with an untied head, as a torch module."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.config, self.head = config, config.head_dim or 0
        sizes = {
            "q": config.num_attention_heads,
            "k": config.num_key_value_heads,
            "v": config.num_key_value_heads,
        }
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.attention = nn.ModuleDict(
            {k: nn.Linear(width, n * self.head, bias=False) for k, n in sizes.items()}
        )
        self.attention["o"] = nn.Linear(config.num_attention_heads * self.head, width, bias=False)
        self.feedforward = nn.ModuleDict({k: nn.Linear(width, inner, bias=False) for k in ("gate", "up")})
        self.feedforward["down"] = nn.Linear(inner, width, bias=False)
        self.attention_norm, self.feedforward_norm, self.norm = (nn.RMSNorm(width, 1e-6) for _ in range(3))
        self.output = nn.Linear(width, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        y, angles = self.attention_norm(x), rotation(torch.arange(tokens.shape[1])[None], config=self.config)
        q, k, v = (self.attention[name](y).unflatten(-1, (-1, self.head)) for name in ("q", "k", "v"))
        q, k, v = (z.transpose(1, 2) for z in (rotate(q, angles), rotate(k, angles), v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.attention["o"](y.transpose(1, 2).flatten(2))
        y = self.feedforward_norm(x)
        x = x + self.feedforward["down"](F.silu(self.feedforward["gate"](y)) * self.feedforward["up"](y))
        return self.output(self.norm(x))


def test_clipped_sums_equal_those_of_opacus() -> None:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    config = ModelConfig(
        vocab_size=17,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
        rms_norm_eps=1e-6,
    )
    model = transformer(config)
    params = tree.map(lambda x: 5 * x if x.ndim == 2 else x, model.init(random.key(0)))
    module, layer = Peer(config), params["layers"][0]
    names = {"embedding": params["embedding"], "output": params["head"], "norm": params["norm"]["scale"]}
    names |= {name: layer[name]["scale"] for name in ("attention_norm", "feedforward_norm")}
    names |= {f"{part}.{name}": x for part in ("attention", "feedforward") for name, x in layer[part].items()}
    module.load_state_dict({f"{name}.weight": x for name, x in names.items()})
    tokens = random.randint(random.key(1), (6, 9), 0, 17).long()
    batch = {"tokens": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}
    loss = loss_of(pretrain(model, optim.sgd(0.1)))
    bound = float(per_sample_norms(loss)(params, batch, KEY).median()) / 8  # of means over 8 tokens
    ours = clipped(bound).compute(loss, params, batch, KEY, {}, None)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hooked = GradSampleModule(module)
        theirs = DPOptimizer(
            torch.optim.SGD(hooked.parameters(), lr=1.0),
            noise_multiplier=0.0,
            max_grad_norm=bound,
            expected_batch_size=6,
        )
        F.cross_entropy(hooked(batch["tokens"]).flatten(0, 1), batch["labels"].flatten()).backward()
        theirs.clip_and_accumulate()
    sums = {name.removeprefix("_module."): p.summed_grad for name, p in hooked.named_parameters()}
    found, grads = {}, ours.grads
    found |= {"embedding": grads["embedding"], "output": grads["head"], "norm": grads["norm"]["scale"]}
    found |= {name: grads["layers"][0][name]["scale"] for name in ("attention_norm", "feedforward_norm")}
    found |= {f"{p}.{k}": x for p in ("attention", "feedforward") for k, x in grads["layers"][0][p].items()}
    assert 0 < ours.metrics["clip/fraction"][0] < 6
    for name, g in found.items():
        torch.testing.assert_close(g, sums[f"{name}.weight"], rtol=1e-5, atol=1e-6)


def test_epsilon_is_that_of_opacus_accountant_step_by_step() -> None:
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    for _ in range(20):
        accountant.step(noise_multiplier=1.1, sample_rate=0.02)
    assert epsilon(20, 0.02, 1.1, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-12)
    assert 0.8 < epsilon(10_000, 0.01, 4.0, 1e-5) < 1.26  # 1.26 in Abadi et al. 2016, section 3.2
    assert epsilon(0, 0.5, 1.0, 1e-5) == 0


def test_bad_arguments_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="clipped: parts must be at least 1, got 0"):
        clipped(1.0, parts=0)
    for arguments in ({"max_norm": 0.0}, {"max_norm": -1}):
        with pytest.raises(ValueError, match="clipped: max_norm must be above 0"):
            clipped(**arguments)
    with pytest.raises(ValueError, match="clipped: noise must be at least 0, got -1"):
        clipped(1.0, noise=-1)
    with pytest.raises(ValueError, match="noise 1 is in units of max_norm, which is infinite"):
        clipped(float("inf"), noise=1)
    for name, value in (("steps", -1), ("sample_rate", 1.5), ("delta", 0.0), ("noise", -0.1)):
        with pytest.raises(ValueError, match=f"epsilon: {name} must be"):
            epsilon(**{"steps": 1, "sample_rate": 0.1, "noise": 1.0, "delta": 1e-5, name: value})
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(ImportError, match="pip install opacus"):
        epsilon(1, 0.1, 1.0, 1e-5)


def test_a_loss_that_ignores_the_weights_is_refused() -> None:
    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        return (batch["x"] @ params.T).sum(), torch.tensor(float(len(batch["x"]))), {}

    batch = {"x": torch.ones(3, 2, 2)}
    with pytest.raises(ValueError, match=r"counts 3 over the batch, and 0 by .* batch\['weights'\]"):
        clipped(1.0).compute(loss, torch.ones(2, 2), batch, KEY, {}, None)
