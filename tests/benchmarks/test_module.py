"""The torch module of the peers computes the loss and the gradient of our functions."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.transform.grad import value_and_grad
from stages.pretrain import pretrain
from stages.stage import loss_of


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield import_module("_module")


def test_loss_and_gradient_are_those_of_the_stage(benchmark: ModuleType) -> None:
    config = ModelConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
    )
    model = transformer(config)
    params = model.init(random.key(0))
    tokens = random.randint(random.key(1), (2, 9), 0, 32).long()
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:]}
    loss = loss_of(pretrain(model, optim.sgd(0.1)))

    def mean(params: object) -> torch.Tensor:
        total, count, _ = loss(params, batch | {"batch_position": torch.arange(2)}, None)
        return total / count

    value, grads = value_and_grad(mean)(params)
    module = benchmark.LossModule(config, params)
    assert [name for name, _ in module.named_children()] == ["layers"]
    assert len(module.layers) == 2
    module(**batch).backward()
    torch.testing.assert_close(module(**batch), value)
    torch.testing.assert_close(module.embedding.grad, grads["embedding"])
    for layer, expected in zip(module.layers, grads["layers"], strict=True):
        found = [getattr(layer, name).grad for name in layer.names]
        torch.testing.assert_close(found, tree.leaves(expected))
