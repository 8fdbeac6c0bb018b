"""`pure.nn.scalar`: a head that gives one number per token, on a model without its own head."""

from __future__ import annotations

import pytest
import torch

from pure import random, tree
from pure.config import ModelConfig
from pure.nn.scalar import scalar_model
from pure.nn.transformer import transformer
from pure.types import Model

TOKENS = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])


def small_model(tied: bool) -> Model:
    return transformer(
        ModelConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=tied,
        )
    )


@pytest.mark.parametrize("tied", [False, True])
def test_scores_are_a_product_with_the_hidden_states(tied: bool) -> None:
    model = small_model(tied)
    scorer, params = scalar_model(model), model.init(random.key(1))
    params_with_head = scorer.init(random.key(2), params)
    found = scorer.score(params_with_head, TOKENS)
    torch.testing.assert_close(found, (model.hidden(params, TOKENS) @ params_with_head["score"].T)[..., 0])
    assert found.dtype == torch.float32


@pytest.mark.parametrize("tied", [False, True])
def test_params_have_the_shapes_of_the_spec_and_no_unused_head(tied: bool) -> None:
    scorer = scalar_model(small_model(tied))
    params = scorer.init(random.key(2))
    assert "head" not in params["model"]
    assert tree.paths(params) == tree.paths(scorer.spec)
    assert [tuple(x.shape) for x in tree.leaves(params)] == [spec.shape for spec in tree.leaves(scorer.spec)]


def test_given_params_are_copied() -> None:
    model = small_model(True)
    params = model.init(random.key(1))
    copied = scalar_model(model).init(random.key(2), params)["model"]
    pairs = list(zip(tree.leaves(copied), tree.leaves(params), strict=True))
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)


def test_segment_ids_and_positions_are_passed_to_the_model() -> None:
    scorer = scalar_model(small_model(True))
    params = scorer.init(random.key(2))
    segments = torch.tensor([[0, 0, 1, 1]] * 2)
    packed = scorer.score(params, TOKENS, segment_ids=segments, positions=torch.tensor([[0, 1, 0, 1]] * 2))
    torch.testing.assert_close(packed[:, 2:], scorer.score(params, TOKENS[:, 2:]), rtol=1e-4, atol=1e-6)
