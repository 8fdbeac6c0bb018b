"""A model is the same by whatever path, and in whatever dtype it is held."""

from __future__ import annotations

from pathlib import Path

import torch

from pure import tree
from stages.models import identity, pretrained
from tests.stages.models.test_pretrained import make


def test_a_model_is_told_by_its_weights(tmp_path: Path) -> None:
    made = make()
    folder = pretrained.save(tmp_path / "run" / "final_model", made, shard_bytes=10_000)
    found = identity.of(made.params)
    assert identity.at(str(folder)) == identity.at(str(tmp_path / "run")) == found
    narrow = tree.cast(made.params, torch.bfloat16)
    assert identity.of(tree.cast(narrow, torch.float32)) == identity.of(narrow)
    assert identity.of(tree.map(lambda x: x + 1, made.params)) != found
    assert identity.at(None) == {}


def test_one_number_of_one_row_makes_another_model() -> None:
    params = make().params
    table = params["embedding"].clone()
    table[5, 3] = torch.nextafter(table[5, 3], torch.tensor(9.0))
    assert identity.of({**params, "embedding": table}) != identity.of(params)
