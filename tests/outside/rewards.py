"""Reward functions written for TRL: our rewards must equal those of TRL's own trainer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from data_pipes.answers.reward_function import Completions, check_reward_function, compute_rewards
from stages.online import weighted_sum
from stages.run.rewards.coroutines import gather
from stages.run.rewards.functions import load_function
from tests.outside.form import Form

TEXTS = ["<think>\nsum\n</think>\n4", "4", "it is 5 5 5 5"]
IDS = [[7, 8, 9, 9], [4], [1, 5, 5, 5, 5]]
PLAIN = [{"prompt": f"{i} + 3?", "answer": "4", "level": i} for i in (1, 1, 2)]
TALK = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in PLAIN]

COLUMN = (
    "def f(completions, answer, **kwargs):\n    return [float(a == c) for a, c in zip(answer, completions)]\n"
)
KEYWORDS = (
    "def f(**kwargs):\n    return [len(c) / 8 + x for c, x in zip(kwargs['completions'], kwargs['level'])]\n"
)
MESSAGES = (
    "def f(prompts, completions, **kwargs):\n"
    "    return [len(p[-1]['content']) + 10 * len(c[0]['content']) for p, c in zip(prompts, completions)]\n"
)
MISSING = "def f(completions, level, **kwargs):\n    return [None if x == 2 else 0.5 for x in level]\n"
ALL_MISSING = "def f(completions, **kwargs):\n    return [None] * len(completions)\n"
COROUTINE = (
    "import asyncio\nasync def f(completions, **kwargs):\n    await asyncio.sleep(0)\n"
    "    return [len(c) for c in completions]\n"
)
OBJECT = (
    "class F:\n    def __call__(self, completions, **kwargs):\n"
    "        return [len(c) for c in completions]\nf = F()\n"
)
ASYNC_OBJECT = OBJECT.replace("def __call__", "async def __call__")
PARTIAL = (
    "import functools\ndef g(completions, scale, **kwargs):\n    return [scale * len(c) for c in completions]\n"
    "f = functools.partial(g, scale=0.25)\nf.__name__ = 'f'\n"
)
SCALARS = (
    "import numpy as np\ndef f(completions, **kwargs):\n    return [np.float32(0.5), True, np.int64(3)]\n"
)
SHORT = "def f(completions, **kwargs):\n    return [1.0]\n"
TRAINER = "def f(completions, trainer_state, **kwargs):\n    return [1.0] * len(completions)\n"
LACKING = "def f(completions, solution, **kwargs):\n    return [1.0] * len(completions)\n"
TOO_LARGE = "def f(completions, **kwargs):\n    return [1e39, 1.0, 1.0]\n"
SHIPPED = "from trl.rewards import {}\nf = {}\n"


def _trainer(functions: list[Callable], loop: asyncio.AbstractEventLoop) -> Any:
    """The attributes of a trainer that `_calculate_rewards` reads."""
    return SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", is_main_process=True),
        args=SimpleNamespace(report_to=[]),
        reward_funcs=functions,
        reward_processing_classes=[None] * len(functions),
        environments=None,
        state=SimpleNamespace(global_step=0),
        reward_func_names=[f"f{i}" for i in range(len(functions))],
        _log_completion_extra=None,
        _log_metric=None,
        async_loop=loop,
    )


def _theirs(
    folder: Path, sources: tuple[str, ...], rows: list[dict], weights: tuple[float, ...]
) -> list[Any]:
    """TRL's rewards [B, K] of these functions, and the weighted sums of its trainer."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    for i, source in enumerate(sources):
        (folder / f"r{i}.py").write_text(source)
    functions = [load_function(f"{folder / f'r{i}.py'}:f") for i in range(len(sources))]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    talk = isinstance(rows[0]["prompt"], list)
    completions = [[{"role": "assistant", "content": text}] for text in TEXTS] if talk else TEXTS
    prompts = [row["prompt"] for row in rows]
    found = GRPOTrainer._calculate_rewards(_trainer(functions, loop), rows, prompts, completions, IDS)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    total = (found * torch.tensor(weights)).nansum(1)
    total[found.isnan().all(1)] = torch.nan
    return [found.nan_to_num(-99.0), total.nan_to_num(-99.0)]


def _ours(folder: Path, count: int, rows: list[dict], weights: tuple[float, ...]) -> list[Any]:
    """Our rewards of the same files."""
    texts = [
        row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"] for row in rows
    ]
    answers, columns = Completions(texts, TEXTS, IDS, rows), []
    for i in range(count):
        function = load_function(f"{folder / f'r{i}.py'}:f")
        check_reward_function("f", function, list(rows[0]))
        columns.append(compute_rewards("f", function, answers, on_bad=_fail, gather=gather()))
    found = torch.tensor(columns).T
    return [found.nan_to_num(-99.0), weighted_sum(found, weights).nan_to_num(-99.0)]


def _fail(text: str) -> None:
    raise ValueError(text)


def _case(name: str, *sources: str, rows: list[dict] = PLAIN, weights: tuple[float, ...] = ()) -> Form:
    """Functions whose rewards equal TRL's."""
    weights = weights or (1.0,) * len(sources)
    return Form(
        "reward",
        name,
        "TRL",
        lambda folder: _theirs(folder, sources, rows, weights),
        lambda folder: _ours(folder, len(sources), rows, weights),
        tolerance=1e-6,
    )


def _refused(name: str, source: str, words: str) -> Form:
    """A function that is refused."""
    return Form(
        "reward",
        name,
        "TRL",
        lambda folder: (folder / "r0.py").write_text(source) and None,
        lambda folder: _ours(folder, 1, PLAIN, (1.0,)),
        words,
    )


FORMS = (
    _case("a batch with a column", COLUMN),
    _case("keywords alone", KEYWORDS),
    _case("messages where the prompts are messages", MESSAGES, rows=TALK),
    _case("none for some answers", MISSING),
    _case("none for some answers next to another reward", MISSING, COLUMN),
    _case("weights, one reward missing", MISSING, COLUMN, weights=(2.0, -0.5)),
    _case("none for all answers", ALL_MISSING),
    _case("a coroutine", COROUTINE),
    _case("a coroutine next to a function", COROUTINE, KEYWORDS),
    _case("an object", OBJECT),
    _case("an object of coroutines", ASYNC_OBJECT),
    _case("a partial", PARTIAL),
    _case("truth values and numpy scalars", SCALARS),
    _case(
        "TRL's think_format_reward", SHIPPED.format("think_format_reward", "think_format_reward"), rows=TALK
    ),
    _case(
        "TRL's repetition penalty",
        SHIPPED.format("get_repetition_penalty_reward", "get_repetition_penalty_reward(2)"),
    ),
    _case(
        "TRL's overlong punishment",
        SHIPPED.format("get_soft_overlong_punishment", "get_soft_overlong_punishment(5, 2)"),
    ),
    _refused("a list of another length", SHORT, "gave 1, expected a list of 3 rewards"),
    _refused("the trainer's state", TRAINER, "takes 'trainer_state', and only TRL's trainer passes it"),
    _refused(
        "a column that the rows have not", LACKING, "takes 'solution', and the rows have no such column"
    ),
    _refused(
        "a number beyond float32", TOO_LARGE, r"gave 1e\+39; expected a number that is finite in float32"
    ),
)
