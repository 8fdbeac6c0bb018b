"""Digest what rewards are made of, so that a run never resumes with others.

A run's fingerprint has these entries beside those of stage and pipe: a reward that changed is refused by
name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipes.digest import hash_blocks, hash_bytes, label
from data_pipes.files import read_blocks
from stages.models import language_model
from stages.run.rewards.functions import BUILT_IN, file_of, names


def identity(rewards: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Describes the rewards of a run.

    Args:
        rewards: as in `stages.run.rewards.functions.score_of`.
        rows: of all prompts; every column, as a reward may read any.

    Returns:
        {"reward NAME's file FILE.py": digest of its bytes (not of what it imports), "reward NAME's weights":
        digest of
        the reward model's files, "the rows' column COLUMN": digest of its values in order}.
    """
    found = {}
    for reward, name in zip(rewards, names(rewards), strict=True):
        if reward in BUILT_IN:
            continue
        path = Path(reward)
        if path.is_dir():
            found[f"reward {name}'s weights"] = _files(language_model.read_weights(path)[0])
        else:
            file = Path(file_of(reward))
            found[f"reward {name}'s file {file.name}"] = _digest(file.read_bytes())
    for column in dict.fromkeys(key for row in rows for key in row):
        values = json.dumps([row.get(column) for row in rows], sort_keys=True, default=repr)
        found[f"the rows' column {column}"] = _digest(values.encode("utf-8", "surrogatepass"))
    return found


def _files(folder: Path) -> str:
    """Digest of a model's configuration and weights."""
    paths = sorted([folder / "config.json", *folder.glob("*.safetensors")])
    blocks = (block for path in paths for block in (path.name.encode(), *read_blocks(path)))
    return label(hash_blocks(blocks))


def _digest(data: bytes) -> str:
    return label(hash_bytes(data))
