"""`stages.models.identity`: a model is identified by its weights, not by its path or dtype."""

from __future__ import annotations

from pathlib import Path

import torch

from pure import tree
from pure.types import Tree
from stages.models import identity, language_model
from tests.stages.models.test_language_model import make_model


def identity_of(params: Tree) -> dict[str, str]:
    return identity.describe_model(identity.hash_weights(params))


def test_a_model_is_identified_by_its_weights(tmp_path: Path) -> None:
    pretrained = make_model()
    folder = language_model.save(tmp_path / "run" / "final_model", pretrained, shard_bytes=10_000)
    found = identity_of(pretrained.params)
    for path in (folder, tmp_path / "run"):
        assert identity_of(language_model.load(path).params) == found
    in_bfloat16 = tree.cast(pretrained.params, torch.bfloat16)
    assert identity_of(tree.cast(in_bfloat16, torch.float32)) == identity_of(in_bfloat16)
    assert identity_of(tree.map(lambda x: x + 1, pretrained.params)) != found


def test_one_changed_number_is_another_model() -> None:
    params = make_model().params
    table = params["embedding"].clone()
    table[5, 3] = torch.nextafter(table[5, 3], torch.tensor(9.0))
    assert identity_of({**params, "embedding": table}) != identity_of(params)
