"""Cosines of gradients against torch's, in a stage."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pure import optim, random, tree
from pure.nn.transformer import transformer
from pure.transform.accumulate import accumulate, split
from pure.transform.cosines import PARTS, PREVIOUS, cosines
from stages.pretrain import pretrain
from stages.stage import loss_of
from tests.laws.test_stages import same_bits, small, text_batch


def flat(grads: object) -> Tensor:
    return torch.cat([x.flatten() for x in tree.leaves(grads)])


def test_cosines_are_those_of_the_flattened_gradients() -> None:
    model = transformer(small(num_hidden_layers=1))
    made, plain = (
        pretrain(model, optim.sgd(0.5), **given) for given in ({"gradient": cosines(4)}, {"accumulation": 4})
    )
    start = made.init(random.key(0))
    first = made.step(start, text_batch(0))
    second = made.step(first, text_batch(1))
    assert first.metrics[PREVIOUS].isnan()
    grads = [
        accumulate(loss_of(made))(state.params, text_batch(i), None).grads
        for i, state in enumerate((start, first))
    ]
    expected = F.cosine_similarity(*(flat(g) for g in grads), dim=0)
    torch.testing.assert_close(second.metrics[PREVIOUS], expected)
    parts = [
        flat(accumulate(loss_of(made))(first.params, part, None).grads) for part in split(text_batch(1), 4)
    ]
    pairs = [F.cosine_similarity(a, b, dim=0) for a, b in combinations(parts, 2)]
    torch.testing.assert_close(second.metrics[PARTS], torch.stack(pairs).mean(), rtol=1e-4, atol=1e-5)
    alone = plain.init(random.key(0))
    assert same_bits(plain.step(plain.step(alone, text_batch(0)), text_batch(1)).params, second.params)


def test_one_part_has_no_pairs() -> None:
    assert cosines().metrics == (PREVIOUS,)
    with pytest.raises(ValueError, match="parts must be at least 1, got 0"):
        cosines(0)
