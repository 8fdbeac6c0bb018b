"""Digest the rewards of a run, so that it never resumes with other rewards.

A run's fingerprint has these entries beside those of stage and pipe, so that the refusal names the reward.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipes.digest import hash_blocks, hash_bytes, short_digest
from data_pipes.files import read_blocks
from stages.models import language_model
from stages.run.rewards.functions import BUILT_IN, reward_names


def digest_rewards(rewards: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Digests the rewards of a run, and the columns that they may read.

    Args:
        rewards: as in `stages.run.rewards.functions.build_score`.
        rows: rows of all prompts; every column is digested, as a reward may read any.

    Returns:
        {"reward NAME's file FILE.py": digest of its bytes (not of its imports), "reward NAME's weights":
        digest of the reward model's files, "the rows' column COLUMN": digest of its values in order}.
    """
    digests = {}
    for reward, name in zip(rewards, reward_names(rewards), strict=True):
        if reward in BUILT_IN:
            continue
        path = Path(reward)
        if path.is_dir():
            digests[f"reward {name}'s weights"] = _digest_model(language_model.read_weights(path)[0])
        else:
            file = Path(reward.rpartition(":")[0])
            digests[f"reward {name}'s file {file.name}"] = short_digest(hash_bytes(file.read_bytes()))
    for column in dict.fromkeys(key for row in rows for key in row):
        values = json.dumps([row.get(column) for row in rows], sort_keys=True, default=repr)
        digests[f"the rows' column {column}"] = short_digest(
            hash_bytes(values.encode("utf-8", "surrogatepass"))
        )
    return digests


def _digest_model(folder: Path) -> str:
    """Digest of a model's configuration and weights."""
    paths = sorted([folder / "config.json", *folder.glob("*.safetensors")])
    blocks = (block for path in paths for block in (path.name.encode(), *read_blocks(path)))
    return short_digest(hash_blocks(blocks))
