"""Reward functions by name: from the command line to (prompt, completion, row) -> float.

A function in a file of the user's own is run as what it is, their own program; it is loaded from the path
that they typed, and from nowhere else.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipes.answers.reward_function import check_reward_function
from data_pipes.embedded.tasks import correct
from data_pipes.tokenizer.spec import Tokenizer
from pure import tree
from pure.nn.scalar import scalar_model
from pure.types import Tree
from stages.models import reward_model
from stages.rollout import Rollouts
from stages.run.rewards import coroutines
from stages.score import Reward, model_score, text_score

BUILT_IN: Mapping[str, Reward] = {"correct": correct}

_EXPECTED = f"{', '.join(BUILT_IN)}, FILE.py:FUNCTION, or the folder of a reward model"


def names(rewards: Sequence[str]) -> tuple[str, ...]:
    """What metrics call the rewards: a function by its name, a reward model "model"; equal names are
    numbered.

    Example:
        >>> names(["correct", "mine.py:short", "yours.py:short"])
        ('correct', 'short', 'short_2')
    """
    plain = [_name(reward) for reward in rewards]
    counts = [plain[: i + 1].count(name) for i, name in enumerate(plain)]
    return tuple(name if count == 1 else f"{name}_{count}" for name, count in zip(plain, counts, strict=True))


def score_of(
    rewards: Sequence[str],
    *,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    on_bad: Callable[[str], Any] | None = None,
    device: torch.device | None = None,
) -> Callable[[Rollouts], Tensor]:
    """Makes the score of all rewards that were named.

    Args:
        rewards: `correct`, FILE.py:FUNCTION, or the folder of a reward model.
        tokenizer: decodes the answers, control tokens left out.
        prompts, rows: text and row of each prompt, by the rollouts' row.
        on_bad: see `stages.score.text_score`.
        device: of reward models.

    Returns:
        Rollouts -> rewards [B, K], in the order of `rewards`.

    Raises:
        ValueError: for a reward that is none of these; of a function, if it cannot be called with what the
            rows have; of `correct`, if the rows have no "answer".
        FileNotFoundError: if there is no such file.
    """
    lacking = next((row for row in rows if "answer" not in row), None)
    if "correct" in rewards and lacking is not None:
        raise ValueError(
            f"--reward correct compares with the column 'answer', and there is a row with {', '.join(lacking)} only; "
            "name a reward of your own (--reward FILE.py:FUNCTION), or add the column"
        )
    columns, gather = tuple(dict.fromkeys(key for row in rows for key in row)), coroutines.gather()
    asked = partial(
        text_score, decode=reader(tokenizer), prompts=prompts, rows=rows, on_bad=on_bad, gather=gather
    )
    parts = [
        model_score(*_model(reward, tokenizer, device))
        if _is_model(reward)
        else asked({name: _fitting(reward, name, columns)})
        for reward, name in zip(rewards, names(rewards), strict=True)
    ]
    return partial(_together, parts=parts)


def reader(tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
    """Makes what turns the ids that a policy wrote into text: without control tokens, and without ids that
    the tokenizer has not (a model may have more rows than words, and draw one of them)."""
    return partial(tokenizer.decode, skip_special=True)


def find(reward: str) -> Reward:
    """Finds a reward function: a name of BUILT_IN, or FILE.py:FUNCTION; of a class, an object made without
    arguments.

    Raises:
        ValueError: if there is none, with what is expected.
        FileNotFoundError: if there is no such file.
    """
    if reward in BUILT_IN:
        return BUILT_IN[reward]
    refuse_names([reward])
    path, name = file_of(reward), reward.rpartition(":")[2]
    spec = importlib.util.spec_from_file_location(f"reward_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        there = [n for n, x in vars(module).items() if callable(x) and not n.startswith("_")]
        raise ValueError(
            f"--reward {reward}: {path} has no function {name!r}; it has {', '.join(there) or 'none'}"
        )
    return _made(found, reward) if isinstance(found, type) else found


def refuse_names(rewards: Sequence[str]) -> None:
    """Checks the names of rewards without running anything.

    Raises:
        ValueError: if one is neither built in, nor FILE.py:FUNCTION, nor a folder; if there is none.
        FileNotFoundError: if there is no such file.
    """
    if not rewards:
        raise ValueError(f"--reward: expected {_EXPECTED}, got none")
    for reward in rewards:
        path = file_of(reward)
        if reward in BUILT_IN or _is_model(reward):
            continue
        if not path.endswith(".py") or not reward.rpartition(":")[2]:
            raise ValueError(f"--reward {reward}: expected {_EXPECTED}")
        if not Path(path).is_file():
            raise FileNotFoundError(f"--reward {reward}: there is no file {path}")


def file_of(reward: str) -> str:
    """The path in FILE.py:FUNCTION."""
    return reward.rpartition(":")[0]


def _fitting(reward: str, name: str, columns: Sequence[str]) -> Reward:
    """A reward function that can be called with these columns."""
    found = find(reward)
    check_reward_function(name, found, columns)
    return found


def _made(kind: type, reward: str) -> Reward:
    """An object of a class: it is what is called."""
    try:
        made = kind()
    except TypeError as error:
        raise ValueError(
            f"--reward {reward}: the class {kind.__name__} cannot be made without arguments ({error}); "
            "name a function, or an object made of the class in the file"
        ) from None
    if not callable(made):
        raise ValueError(
            f"--reward {reward}: objects of the class {kind.__name__} cannot be called; give it __call__"
        )
    return made


def _name(reward: str) -> str:
    """What metrics call it."""
    return "model" if _is_model(reward) else reward.rpartition(":")[2]


def _is_model(reward: str) -> bool:
    """Whether it is a folder."""
    return reward not in BUILT_IN and Path(reward).is_dir()


def _model(folder: str, tokenizer: Tokenizer, device: torch.device | None) -> tuple[Tree, Any]:
    """Params and score of a reward model."""
    loaded = reward_model.load(folder)
    if loaded.tokenizer.spec != tokenizer.spec:
        raise ValueError(
            f"--reward {folder}: this reward model has another tokenizer than --model_path; its scores of "
            "these ids would mean nothing"
        )
    params = tree.map(lambda x: x.to(device), loaded.params)
    return params, scalar_model(loaded.model).score


def _together(rollouts: Rollouts, *, parts: Sequence[Callable[[Rollouts], Tensor]]) -> Tensor:
    """The columns of all parts."""
    return torch.cat([part(rollouts) for part in parts], 1)
