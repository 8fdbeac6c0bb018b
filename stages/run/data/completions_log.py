"""Log the completions of a policy with their rewards, to completions.jsonl and as printed tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from data_pipes.files import write_atomically, writing
from data_pipes.tokenizer.spec import Tokenizer
from pure.plural import count_noun
from stages.rollout import Rollouts
from stages.run.rewards.functions import completion_decoder
from stages.score import decode_completions
from stages.state import TrainState

NAME = "completions.jsonl"
TABLE_ROWS = 4
"""Completions that a table shows."""

WIDTH = 40
"""Characters of the longest prompt or completion in a table; a longer one is shortened."""

WARNING_SHARE = 0.9
"""Share of groups with equal rewards, or of unscored or truncated completions, that triggers a warning."""


class Recorder(NamedTuple):
    """Logs the completions of every step.

    Fields:
        remember: (Rollouts, rewards [B, K]) -> None; keeps both until `write` logs them.
        write: state -> None; logs the completions kept last, under the number of the state's step.
    """

    remember: Callable[[Rollouts, Tensor], None]
    write: Callable[[TrainState], None]


def recorder(
    folder: Path,
    *,
    names: Sequence[str],
    prompts: Sequence[str],
    tokenizer: Tokenizer,
    table_every: int,
    samples: int,
    weights: tuple[float, ...] | None = None,
    say: Callable[[str], Any] = print,
) -> Recorder:
    """Builds a Recorder.

    Args:
        folder: the run's folder; completions.jsonl in it gets one line per step.
        names: names of the K rewards.
        prompts: text of each prompt.
        tokenizer: decodes the completions.
        table_every: steps between tables; 0 shows none.
        samples: completions per prompt; each prompt's completions form a group, counted in the warnings.
        weights: weights of the K rewards in the table's sum; None weighs each with 1.
        say: prints a message to the user.

    Returns:
        Recorder.
    """
    scored: list[tuple[Rollouts, Tensor]] = []
    decode = completion_decoder(tokenizer)

    def remember(rollouts: Rollouts, rewards: Tensor) -> None:
        scored[:] = [(rollouts, rewards)]

    def write(state: TrainState) -> None:
        step = int(state.step)
        if scored:
            rows = completion_rows(*scored.pop(), names=names, prompts=prompts, decode=decode)
            append_step(folder / NAME, step, rows)
            if table_every and (step == 1 or step % table_every == 0):
                say(render_table(step, rows, weights))
                _warn(say, state, len(rows) // samples, samples)

    return Recorder(remember, write)


def completion_rows(
    rollouts: Rollouts,
    rewards: Tensor,
    *,
    names: Sequence[str],
    prompts: Sequence[str],
    decode: Callable[[Sequence[int]], str],
) -> list[dict[str, Any]]:
    """Decodes completions into rows of the log.

    Args:
        rollouts: B completions.
        rewards: [B, K] float.
        names: names of the K rewards.
        prompts: text of each prompt; `rollouts.row` indexes them.
        decode: ids -> text.

    Returns:
        B rows {"index", "prompt", "completion", "rewards": {name: number, or None if unscored}}.
    """
    rows = []
    texts = decode_completions(rollouts, decode)
    for row, text, values in zip(rollouts.row.tolist(), texts, rewards.tolist(), strict=True):
        scores = {name: None if math.isnan(x) else x for name, x in zip(names, values, strict=True)}
        rows.append({"index": row, "prompt": prompts[row], "completion": text, "rewards": scores})
    return rows


def render_table(step: int, rows: Sequence[Mapping[str, Any]], weights: Sequence[float] | None = None) -> str:
    """Renders the completions with the highest and the lowest weighted rewards.

    Example:
        >>> print(render_table(3, [{"prompt": "1 + 1?", "completion": "2", "rewards": {"correct": 1.0}}]))
        step 3: reward | prompt | completion
          1.00 | 1 + 1? | 2
    """
    factors = weights or (1.0,) * len(rows[0]["rewards"])

    def total(row: Mapping[str, Any]) -> float:
        rewards = (reward or 0.0 for reward in row["rewards"].values())
        return sum(factor * reward for factor, reward in zip(factors, rewards, strict=True))

    best_first = sorted(rows, key=total, reverse=True)
    if len(best_first) > TABLE_ROWS:
        best_first = [*best_first[: TABLE_ROWS // 2], *best_first[-TABLE_ROWS // 2 :]]
    lines = [
        f"  {total(row):.2f} | {_shorten(row['prompt'])} | {_shorten(row['completion'])}"
        for row in best_first
    ]
    return "\n".join([f"step {step}: reward | prompt | completion", *lines])


def append_step(path: Path, step: int, rows: list[dict[str, Any]]) -> None:
    """Appends one step's line, after dropping lines of this and later steps that a killed run left.

    Args:
        path: of the log; made with its folder if missing.
        step: number of the step.
        rows: as `completion_rows` returns.

    Raises:
        OSError: if the line cannot be written.
    """
    line = json.dumps({"step": step, "answers": rows}, ensure_ascii=False) + "\n"
    if path.exists() and _last_step(path) >= step:
        kept = [old for old in path.read_bytes().splitlines(keepends=True) if _step(old) < step]
        with writing(path):
            write_atomically(path, b"".join(kept))
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(line)


def _shorten(text: str) -> str:
    """A text on one line, its middle left out."""
    line = " ".join(text.split())
    if len(line) <= WIDTH:
        return line
    return f"{line[: WIDTH // 2 - 1]}…{line[-WIDTH // 2 :]}"


def _warn(say: Callable[[str], Any], state: TrainState, groups: int, samples: int) -> None:
    """Warns if nearly all groups have equal rewards, or nearly all completions are unscored or truncated."""
    equal = float(state.metrics.get("frac_reward_zero_std", 0.0))
    if samples > 1 and equal >= WARNING_SHARE:
        say(
            f"the reward is equal in {round(equal * groups)} of {count_noun(groups, 'group')}: nothing to "
            "learn from; raise --temperature, use other prompts, or change the reward"
        )
    unscored = float(state.metrics.get("frac_unjudged", 0.0))
    if unscored >= WARNING_SHARE:
        say(
            f"{unscored:.0%} of the completions have no reward, and are left out of the loss; see "
            "completions.jsonl"
        )
    truncated = float(state.metrics.get("completions/clipped_ratio", 0.0))
    if truncated >= WARNING_SHARE:
        say(
            f"{truncated:.0%} of the completions were cut off at --max_new_tokens: raise it, or teach the "
            "model to stop (sft)"
        )


def _last_step(path: Path) -> int:
    """The step of the last line; 0 in an empty file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 22)))
        lines = file.read().splitlines()
    return _step(lines[-1]) if lines else 0


def _step(line: bytes) -> int:
    """The step of a line; an incomplete line gets a huge number, so that it is dropped."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62
