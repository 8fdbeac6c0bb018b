"""Chains, counts and the small things that all optimizers share."""

from __future__ import annotations

import inspect

import pytest
import torch

from pure import optim
from pure.optim import base


def test_a_chain_passes_grad_norm_only_until_the_updates_change() -> None:
    g = {"w": torch.tensor([3.0, 4.0])}
    clip_first = optim.chain(optim.identity(), optim.clip_by_global_norm(1.0), optim.scale(10.0))
    with_norm, _ = clip_first.update(g, clip_first.init(g), grad_norm=torch.tensor(50.0))
    torch.testing.assert_close(with_norm["w"], torch.tensor([0.6, 0.8]))  # 10 (3, 4) / 50
    clip_last = optim.chain(optim.scale(10.0), optim.clip_by_global_norm(1.0))
    found, _ = clip_last.update(g, clip_last.init(g), grad_norm=torch.tensor(0.01))
    torch.testing.assert_close(found["w"], torch.tensor([0.6, 0.8]))


def test_chain_without_links_and_nested_chains() -> None:
    g = torch.tensor(2.0)
    assert optim.chain().update(g, ()) == (g, ())
    nested = optim.chain(optim.chain(optim.scale(2.0)), optim.scale(3.0))
    updates, state = nested.update(g, nested.init(g))
    assert (updates, state) == (torch.tensor(12.0), ((optim.EmptyState(),), optim.EmptyState()))


def test_chain_refuses_a_foreign_state_and_a_builder() -> None:
    opt = optim.adamw(0.1)
    with pytest.raises(ValueError, match="3 transformations but 2 states"):
        opt.update(torch.ones(1), opt.init(torch.ones(1))[:2])
    with pytest.raises(TypeError, match=r"argument 1 must be a GradientTransformation.*write adamw\(1e-3\)"):
        inspect.unwrap(optim.chain)(opt, optim.adamw)


def test_the_count_saturates() -> None:
    counts = torch.tensor([0, 2**31 - 2, 2**31 - 1], dtype=torch.int32)
    assert [base.increment(c).item() for c in counts] == [1, 2**31 - 1, 2**31 - 1]
    assert base.increment(counts[0]).dtype == torch.int32


@pytest.mark.parametrize("decay", [0.9, 0.95, 0.99, 0.999, 0.0])
def test_bias_correction(decay: float) -> None:
    for t in (1, 2, 7, 100, 5000):
        count = torch.tensor(t, dtype=torch.int32)
        exact = 1 - decay**t
        assert base.bias_correction(decay, count, torch.float64).item() == pytest.approx(exact, rel=1e-12)
        # In float32 the decay itself is rounded: 1 - 0.999 is then 0.0010000467. optax has the same.
        assert base.bias_correction(decay, count).item() == pytest.approx(
            1 - torch.tensor(decay).item() ** t, abs=2**-23
        )
        assert (
            base.bias_correction(torch.tensor(decay), count).item()
            == base.bias_correction(decay, count).item()
        )


def test_apply_updates_keeps_the_dtype() -> None:
    new = optim.apply_updates({"w": torch.ones(2, dtype=torch.bfloat16)}, {"w": torch.tensor([0.5, -1.0])})
    assert new["w"].tolist() == [1.5, 0.0]
    assert new["w"].dtype == torch.bfloat16


def test_store_once_changes_nothing_under_any_transform() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return base.store_once(x * x) * torch.ones(2)

    x = torch.arange(4.0).view(2, 2)
    assert torch.vmap(torch.vmap(f))(x).tolist() == (x * x)[..., None].expand(2, 2, 2).tolist()
    assert torch.func.grad(lambda x: f(x).sum())(torch.tensor(3.0)) == 12.0
