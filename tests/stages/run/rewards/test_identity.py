"""Rewards are digested by their files, weights and columns, each under its own name."""

from __future__ import annotations

from pathlib import Path

from stages.models import reward_model
from stages.run.rewards.identity import digest_rewards
from tests.stages.models.test_reward_model import make_reward_model

ROWS = [{"prompt": "a", "answer": "x"}, {"prompt": "b", "answer": "y", "hint": None}]


def test_each_file_model_and_column_has_a_digest_of_its_contents(tmp_path: Path) -> None:
    file, folder = tmp_path / "mine.py", tmp_path / "model"
    file.write_text("def f(p, c, r): return 1\n")
    reward_model.save(folder, make_reward_model())
    rewards = ("correct", f"{file}:f", str(folder))
    before = digest_rewards(rewards, ROWS)
    assert list(before) == [
        "reward f's file mine.py",
        "reward model's weights",
        "the rows' column prompt",
        "the rows' column answer",
        "the rows' column hint",
    ]
    assert digest_rewards(rewards, [dict(row) for row in ROWS]) == before
    file.write_text("def f(p, c, r): return 2\n")
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    after = digest_rewards(rewards, [ROWS[0], {**ROWS[1], "answer": "z"}])
    assert [name for name in before if before[name] != after[name]] == [
        "reward f's file mine.py",
        "reward model's weights",
        "the rows' column answer",
    ]
