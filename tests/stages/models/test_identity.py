"""A model is the same by whatever path, and in whatever dtype it is held."""

from __future__ import annotations

from pathlib import Path

import torch

from pure import tree
from stages.models import identity, language_model
from tests.stages.models.test_language_model import make


def test_a_model_is_told_by_its_weights(tmp_path: Path) -> None:
    made = make()
    folder = language_model.save(tmp_path / "run" / "final_model", made, shard_bytes=10_000)
    found = identity.describe_model(made.params)
    assert (
        language_model.describe_model_at(str(folder))
        == language_model.describe_model_at(str(tmp_path / "run"))
        == found
    )
    narrow = tree.cast(made.params, torch.bfloat16)
    assert identity.describe_model(tree.cast(narrow, torch.float32)) == identity.describe_model(narrow)
    assert identity.describe_model(tree.map(lambda x: x + 1, made.params)) != found
    assert language_model.describe_model_at(None) == {}


def test_one_number_of_one_row_makes_another_model() -> None:
    params = make().params
    table = params["embedding"].clone()
    table[5, 3] = torch.nextafter(table[5, 3], torch.tensor(9.0))
    assert identity.describe_model({**params, "embedding": table}) != identity.describe_model(params)
