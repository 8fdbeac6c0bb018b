"""Load the reward functions that --reward names, and combine them into one score.

A function in a user's file is the user's own program, and runs unrestricted; it is loaded only from the path
given on the command line.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
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


def reward_names(rewards: Sequence[str]) -> tuple[str, ...]:
    """Names rewards for metrics: the function's name, or "model" for a reward model; repeats get a number.

    Example:
        >>> reward_names(["correct", "mine.py:short", "yours.py:short"])
        ('correct', 'short', 'short_2')
    """
    names: list[str] = []
    counts: Counter[str] = Counter()
    for reward in rewards:
        name = "model" if _is_folder(reward) else reward.rpartition(":")[2]
        counts[name] += 1
        names.append(name if counts[name] == 1 else f"{name}_{counts[name]}")
    return tuple(names)


def build_score(
    rewards: Sequence[str],
    *,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    on_bad: Callable[[str], Any] | None = None,
    device: torch.device | None = None,
) -> Callable[[Rollouts], Tensor]:
    """Builds the score of all rewards that --reward names.

    Args:
        rewards: `correct`, FILE.py:FUNCTION, or the folder of a reward model.
        tokenizer: decodes the completions, without control tokens.
        prompts, rows: text and row of each prompt; `Rollouts.row` indexes them.
        on_bad: see `stages.score.text_score`.
        device: device of the reward models.

    Returns:
        Rollouts -> rewards [B, K], in the order of `rewards`.

    Raises:
        ValueError: for a reward that is none of these; a function that cannot be called with the rows'
            columns; `correct`, if a row has no "answer".
        FileNotFoundError: if there is no such file.
    """
    without_answer = next((row for row in rows if "answer" not in row), None)
    if "correct" in rewards and without_answer is not None:
        raise ValueError(
            "--reward correct compares with the column 'answer', and there is a row with "
            f"{', '.join(without_answer)} only; name a reward of your own (--reward FILE.py:FUNCTION), or "
            "add the column"
        )
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    score_text = partial(
        text_score,
        decode=completion_decoder(tokenizer),
        prompts=prompts,
        rows=rows,
        on_bad=on_bad,
        gather=coroutines.gather(),
    )
    parts: list[Callable[[Rollouts], Tensor]] = []
    for reward, name in zip(rewards, reward_names(rewards), strict=True):
        if _is_folder(reward):
            parts.append(model_score(*_load_model(reward, tokenizer, device)))
            continue
        function = load_function(reward)
        check_reward_function(name, function, columns)
        parts.append(score_text({name: function}))
    return partial(_concatenate, parts=parts)


def completion_decoder(tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
    """Returns the function that decodes completions, without control tokens and ids that the tokenizer lacks.

    The embedding of a model may have more rows than the tokenizer has tokens, so such ids can be sampled.
    """
    return partial(tokenizer.decode, skip_special=True)


def load_function(reward: str) -> Reward:
    """Loads a reward function: a name of BUILT_IN, or FILE.py:FUNCTION; a class is called without arguments.

    Raises:
        ValueError: if the name or the function does not exist; the message says what is expected.
        FileNotFoundError: if there is no such file.
    """
    if reward in BUILT_IN:
        return BUILT_IN[reward]
    refuse_unknown([reward])
    path, _, name = reward.rpartition(":")
    spec = importlib.util.spec_from_file_location(f"reward_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(
            f"--reward {reward}: {path} has no function {name!r}; it has {', '.join(public) or 'none'}"
        )
    return _instantiate(function, reward) if isinstance(function, type) else function


def refuse_unknown(rewards: Sequence[str]) -> None:
    """Checks the names of rewards without running anything.

    Raises:
        ValueError: if one is neither built in, nor FILE.py:FUNCTION, nor a folder; or if no reward is named.
        FileNotFoundError: if there is no such file.
    """
    if not rewards:
        raise ValueError(f"--reward: expected {_EXPECTED}, got none")
    for reward in rewards:
        path, _, function = reward.rpartition(":")
        if reward in BUILT_IN or _is_folder(reward):
            continue
        if not path.endswith(".py") or not function:
            raise ValueError(f"--reward {reward}: expected {_EXPECTED}")
        if not Path(path).is_file():
            raise FileNotFoundError(f"--reward {reward}: there is no file {path}")


def _instantiate(cls: type, reward: str) -> Reward:
    """Calls a class without arguments; its object is the reward function."""
    try:
        instance = cls()
    except TypeError as error:
        raise ValueError(
            f"--reward {reward}: the class {cls.__name__} cannot be called without arguments ({error}); "
            "name a function, or an object of the class that the file makes"
        ) from None
    if not callable(instance):
        raise ValueError(
            f"--reward {reward}: objects of the class {cls.__name__} cannot be called; give it __call__"
        )
    return instance


def _is_folder(reward: str) -> bool:
    """True for a reward model's folder."""
    return reward not in BUILT_IN and Path(reward).is_dir()


def _load_model(
    folder: str, tokenizer: Tokenizer, device: torch.device | None
) -> tuple[Tree, Callable[..., Tensor]]:
    """Params and score of a reward model."""
    loaded = reward_model.load(folder)
    if loaded.tokenizer.spec != tokenizer.spec:
        raise ValueError(
            f"--reward {folder}: this reward model has another tokenizer than --model_path, so it cannot "
            "score the same ids; train one from a model with that tokenizer"
        )
    params = tree.map(lambda x: x.to(device), loaded.params)
    return params, scalar_model(loaded.model).score


def _concatenate(rollouts: Rollouts, *, parts: Sequence[Callable[[Rollouts], Tensor]]) -> Tensor:
    """Computes the columns of all parts, [B, K]."""
    return torch.cat([part(rollouts) for part in parts], 1)
