"""A model is the same by whatever path, and in whatever dtype it is held."""

from __future__ import annotations

from pathlib import Path

import torch

from pure import tree
from stages.run import model_identity, pretrained
from tests.stages.run.test_pretrained import make


def test_a_model_is_told_by_its_weights(tmp_path: Path) -> None:
    made = make()
    folder = pretrained.save(tmp_path / "run" / "final_model", made, shard_bytes=10_000)
    found = model_identity.of(made.params)
    assert model_identity.at(str(folder)) == model_identity.at(str(tmp_path / "run")) == found
    narrow = tree.cast(made.params, torch.bfloat16)
    assert model_identity.of(tree.cast(narrow, torch.float32)) == model_identity.of(narrow)
    assert model_identity.of(tree.map(lambda x: x + 1, made.params)) != found
    assert model_identity.at(None) == {}


def test_one_number_of_one_row_makes_another_model() -> None:
    params = make().params
    table = params["embedding"].clone()
    table[5, 3] = torch.nextafter(table[5, 3], torch.tensor(9.0))
    assert model_identity.of({**params, "embedding": table}) != model_identity.of(params)
