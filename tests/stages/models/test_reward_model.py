"""`reward_model.save` and `load`: equal weights when loaded, and equal scores in transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from pure import random, tree
from pure.nn.scalar import scalar_model
from stages.models import language_model, reward_model
from stages.models.language_model import Pretrained
from tests.stages.models.test_language_model import TEXT, make_model


def make_reward_model(**changes: object) -> Pretrained:
    base = make_model(**changes)
    return base._replace(params=scalar_model(base.model).init(random.key(1), base.params))


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_reward_model_loads_with_equal_weights(tied: bool, tmp_path: Path) -> None:
    pretrained = make_reward_model(tie_word_embeddings=tied)
    loaded = reward_model.load(reward_model.save(tmp_path / "model", pretrained))
    assert tree.paths(loaded.params) == tree.paths(pretrained.params)
    assert all(
        torch.equal(a, b)
        for a, b in zip(tree.leaves(loaded.params), tree.leaves(pretrained.params), strict=True)
    )


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_computes_equal_scores(tied: bool, tmp_path: Path) -> None:
    pretrained = make_reward_model(tie_word_embeddings=tied)
    reward_model.save(tmp_path / "model", pretrained)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    ids = torch.tensor([pretrained.tokenizer.encode(TEXT[0])[:20]])
    with torch.no_grad():
        expected = theirs(ids).logits[:, 0]
    found = scalar_model(pretrained.model).score(pretrained.params, ids)[:, -1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_language_model_is_refused_as_a_reward_model(tmp_path: Path) -> None:
    language_model.save(tmp_path / "model", make_model())
    with pytest.raises(ValueError, match="expected a reward model"):
        reward_model.load(tmp_path / "model")


@pytest.mark.parametrize("tied", [True, False])
def test_a_reward_model_is_refused_as_a_language_model(tied: bool, tmp_path: Path) -> None:
    reward_model.save(tmp_path / "model", make_reward_model(tie_word_embeddings=tied))
    with pytest.raises(ValueError, match=r"weights of a reward model: score\.weight gives a score"):
        language_model.load(tmp_path / "model")
