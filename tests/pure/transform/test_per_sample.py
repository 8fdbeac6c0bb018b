"""Per-sample gradients equal a loop over examples, and add up to the batch's."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pure import random, tree
from pure.config import ModelConfig
from pure.loss.cross_entropy import linear_cross_entropy
from pure.nn.transformer import transformer
from pure.transform.grad import grad
from pure.transform.per_sample import per_sample_grad
from pure.types import Tree
from stages.pretrain import next_token_loss

MODEL = transformer(
    ModelConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        hidden_dropout=0.3,
    )
)
LOSS = partial(next_token_loss, model=MODEL, head=partial(linear_cross_entropy, logits=MODEL.logits))


def make() -> tuple[Tree, Tree, torch.Tensor]:
    drawn = random.randint(random.key(1), (5, 7), 0, 11).long()
    return MODEL.init(random.key(0)), {"tokens": drawn[:, :-1], "labels": drawn[:, 1:]}, random.key(2)


@pytest.mark.parametrize("chunk", [None, 1, 2, 9])
def test_equals_a_loop_and_adds_up_dropout_on(chunk: int | None) -> None:
    params, batch, key = make()
    numbered = {"row": torch.arange(5), **batch}
    each = per_sample_grad(LOSS, chunk=chunk)(params, batch, key)
    rows = [{name: x[i : i + 1] for name, x in numbered.items()} for i in range(5)]
    alone = tree.stack([grad(lambda p, row=row: LOSS(p, row, key)[0])(params) for row in rows])
    torch.testing.assert_close(each, alone, rtol=1e-5, atol=1e-6)
    together = grad(lambda p: LOSS(p, numbered, key)[0])(params)
    torch.testing.assert_close(tree.map(lambda g: g.sum(0), each), together, rtol=1e-5, atol=1e-5)


def test_refuses_what_it_cannot_cut() -> None:
    params, batch, key = make()
    with pytest.raises(ValueError, match="at least 1"):
        per_sample_grad(LOSS, chunk=0)
    with pytest.raises(ValueError, match="no rows"):
        per_sample_grad(LOSS)(params, tree.map(lambda x: x[:0], batch), key)
