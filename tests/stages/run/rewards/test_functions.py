"""Rewards by name: built in, a function of the user's file, or a reward model in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.models import reward_model
from stages.run.rewards.functions import build_score, load_function, reward_names
from tests.data_pipes.chats import tokenizer
from tests.stages.models.test_language_model import make_model
from tests.stages.models.test_reward_model import make_reward_model
from tests.stages.test_score import ROLLOUTS

DATA = {"prompts": ["a", "b"], "rows": [{"answer": "x"}, {"answer": "y"}]}


def test_each_reward_is_a_column_of_the_score(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def length(prompt, completion, row):\n    return len(completion)\n")
    reward_model.save(tmp_path / "model", make_reward_model())
    rewards = ["correct", f"{tmp_path / 'mine.py'}:length", str(tmp_path / "model")]
    score = build_score(rewards, tokenizer=make_model().tokenizer, **DATA)
    assert reward_names(rewards) == ("correct", "length", "model")
    assert score(ROLLOUTS).shape == (2, 3)
    assert score(ROLLOUTS)[:, :2].tolist()[0] == [0.0, 2.0]


def test_a_reward_model_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    reward_model.save(tmp_path / "model", make_reward_model())
    with pytest.raises(ValueError, match="another tokenizer"):
        build_score([str(tmp_path / "model")], tokenizer=tokenizer(), **DATA)


def test_the_reward_correct_needs_the_column_answer() -> None:
    with pytest.raises(ValueError, match="compares with the column 'answer'"):
        build_score(["correct"], tokenizer=tokenizer(), prompts=["a"], rows=[{"prompt": "a"}])


@pytest.mark.parametrize("reward", ["right", "mine.txt:f", "mine.py", "mine.py:"])
def test_an_invalid_reward_name_is_refused(reward: str) -> None:
    with pytest.raises(ValueError, match=r"expected correct, FILE.py:FUNCTION"):
        load_function(reward)


def test_a_missing_file_or_function_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file none.py"):
        load_function("none.py:f")
    (tmp_path / "mine.py").write_text("def g(): pass\n")
    with pytest.raises(ValueError, match="has no function 'f'; it has g"):
        load_function(f"{tmp_path / 'mine.py'}:f")
