"""A reward model on disk: read back here as it was, and by transformers with the same scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from pure import random, tree
from pure.nn.scalar import scalar_model
from stages.models import language_model, reward_model
from stages.models.language_model import Pretrained
from tests.stages.models.test_language_model import TEXT, make


def scored(**changes: object) -> Pretrained:
    made = make(**changes)
    return made._replace(params=scalar_model(made.model).init(random.key(1), made.params))


@pytest.mark.parametrize("tied", [True, False])
def test_it_is_read_back_as_it_was(tied: bool, tmp_path: Path) -> None:
    made = scored(tie_word_embeddings=tied)
    loaded = reward_model.load(reward_model.save(tmp_path / "model", made))
    assert tree.paths(loaded.params) == tree.paths(made.params)
    assert all(
        torch.equal(a, b) for a, b in zip(tree.leaves(loaded.params), tree.leaves(made.params), strict=True)
    )


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_scores_alike(tied: bool, tmp_path: Path) -> None:
    made = scored(tie_word_embeddings=tied)
    reward_model.save(tmp_path / "model", made)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    ids = torch.tensor([made.tokenizer.encode(TEXT[0])[:20]])
    with torch.no_grad():
        expected = theirs(ids).logits[:, 0]
    found = scalar_model(made.model).score(made.params, ids)[:, -1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    language_model.save(tmp_path / "model", make())
    with pytest.raises(ValueError, match="expected a reward model"):
        reward_model.load(tmp_path / "model")
