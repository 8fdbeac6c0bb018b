"""A model is the same by whatever path, and in whatever dtype it is held."""

from __future__ import annotations

from pathlib import Path

import torch

from pure import tree
from pure.types import Tree
from stages.models import identity, language_model
from tests.stages.models.test_language_model import make


def describe(params: Tree) -> dict[str, str]:
    return identity.describe_model(identity.hash_weights(params))


def test_a_model_is_identified_by_its_weights(tmp_path: Path) -> None:
    made = make()
    folder = language_model.save(tmp_path / "run" / "final_model", made, shard_bytes=10_000)
    found = describe(made.params)
    for path in (folder, tmp_path / "run"):
        assert describe(language_model.load(path).params) == found
    narrow = tree.cast(made.params, torch.bfloat16)
    assert describe(tree.cast(narrow, torch.float32)) == describe(narrow)
    assert describe(tree.map(lambda x: x + 1, made.params)) != found


def test_one_number_of_one_row_makes_another_model() -> None:
    params = make().params
    table = params["embedding"].clone()
    table[5, 3] = torch.nextafter(table[5, 3], torch.tensor(9.0))
    assert describe({**params, "embedding": table}) != describe(params)
