"""Sharpness and spectrum of a stage's mean loss against the dense Hessian, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from pure import optim, random, tree
from pure.adapt.lora import lora
from pure.nn.transformer import transformer
from pure.transform.krylov import ravel, unravel
from stages.sft import sft
from stages.sharpness import sharpness, spectrum
from stages.stage import loss_of
from tests.laws.test_stages import small, text_batch


def test_sharpness_of_adapters_is_the_largest_eigenvalue_of_the_mean_loss() -> None:
    plain, key = transformer(small(num_hidden_layers=1)), random.key(0)
    model = lora(plain, tree.cast(plain.init(key), torch.float64), rank=1, targets=("v", "o"))
    loss, batch = loss_of(sft(model, optim.sgd(0.1))), text_batch(0)
    adapters = tree.map(lambda x: x.double() + 0.1, model.init(random.key(1)))

    def mean_loss(flat: Tensor) -> Tensor:
        total, count, _ = loss(unravel(flat, adapters), batch, None)
        return total / count

    exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(mean_loss, ravel(adapters)))
    found = spectrum(loss, adapters, batch, key, steps=tree.count(adapters))
    torch.testing.assert_close(found.values, exact, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(
        sharpness(loss, adapters, batch, key, steps=12), exact[-1], rtol=1e-6, atol=0.0
    )
