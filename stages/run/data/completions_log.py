"""What a policy answered and what it was rewarded with: completions.jsonl, and a table on the screen now and
then."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from data_pipes.files import write_atomically, writing
from data_pipes.tokenizer.spec import Tokenizer
from stages.rollout import Rollouts
from stages.run.rewards.functions import reader
from stages.score import completions
from stages.state import TrainState

NAME = "completions.jsonl"
SHOWN = 4
"""Answers in a table."""

WIDTH = 40
"""Characters of a text in a table."""

DULL = 0.9
"""Share of groups with equal rewards from which on a person is told."""


class Recorder(NamedTuple):
    """Sees every round of answers.

    Fields:
        score: a score that also keeps what it saw.
        observe: state -> {}; writes what was kept down as that of the state's last step.
    """

    score: Callable[[Rollouts], Tensor]
    observe: Callable[[TrainState], dict]


def recorder(
    score: Callable[[Rollouts], Tensor],
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
    """Makes a Recorder.

    Args:
        score: Rollouts -> rewards [B, K].
        folder: of the run; completions.jsonl in it gets one line a step.
        names: of the K rewards.
        prompts: text of each prompt.
        tokenizer: decodes the answers.
        table_every: steps between tables; 0 shows none.
        samples: answers to each prompt, for what is said about groups.
        weights: of the K rewards in the table's sum; None weighs each with 1.
        say: takes lines for the person who watches.

    Returns:
        Recorder.
    """
    seen: list[tuple[Rollouts, Tensor]] = []
    decode = reader(tokenizer)

    def watched(rollouts: Rollouts) -> Tensor:
        rewards = score(rollouts)
        seen[:] = [(rollouts, rewards)]
        return rewards

    def observe(state: TrainState) -> dict:
        step = int(state.step)
        if seen:
            rows = rows_of(*seen.pop(), names=names, prompts=prompts, decode=decode)
            _append(folder / NAME, step, rows)
            if table_every and (step == 1 or step % table_every == 0):
                say(table(step, rows, weights))
                _explain(say, state, len(rows) // samples, samples)
        return {}

    return Recorder(watched, observe)


def rows_of(
    rollouts: Rollouts, rewards: Tensor, *, names: Sequence[str], prompts: Sequence[str], decode: Callable
) -> list[dict[str, Any]]:
    """Writes a round of answers in words.

    Args:
        rollouts: B of them.
        rewards: [B, K] float.
        names: of the K rewards.
        prompts: text of each prompt, by the rollouts' row.
        decode: ids -> text.

    Returns:
        B rows {"index", "prompt", "completion", "rewards": {name: number, or None where there is none}}.
    """
    found = []
    texts = completions(rollouts, decode)
    for row, text, values in zip(rollouts.row.tolist(), texts, rewards.tolist(), strict=True):
        judged = {name: value if value == value else None for name, value in zip(names, values, strict=True)}
        found.append({"index": row, "prompt": prompts[row], "completion": text, "rewards": judged})
    return found


def table(step: int, rows: Sequence[Mapping[str, Any]], weights: Sequence[float] | None = None) -> str:
    """Writes some answers with their weighted rewards, the best and the worst among them.

    Example:
        >>> print(table(3, [{"prompt": "1 + 1?", "completion": "2", "rewards": {"correct": 1.0}}]))
        step 3: reward | prompt | answer
          1.00 | 1 + 1? | 2
    """
    factors = weights or (1.0,) * len(rows[0]["rewards"])
    total = [
        sum(w * (x or 0.0) for w, x in zip(factors, row["rewards"].values(), strict=True)) for row in rows
    ]
    order = sorted(range(len(rows)), key=lambda i: -total[i])
    chosen = order if len(order) <= SHOWN else [*order[: SHOWN // 2], *order[-SHOWN // 2 :]]
    lines = [
        f"  {total[i]:.2f} | {_short(rows[i]['prompt'])} | {_short(rows[i]['completion'])}" for i in chosen
    ]
    return "\n".join([f"step {step}: reward | prompt | answer", *lines])


def _short(text: str) -> str:
    """A text on one line, its middle left out."""
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH // 2 - 1]}…{line[-WIDTH // 2 :]}"


def _explain(say: Callable[[str], Any], state: TrainState, groups: int, samples: int) -> None:
    """Says why nothing is learned, where nothing is."""
    dull = float(state.metrics.get("frac_reward_zero_std", 0.0))
    if samples > 1 and dull >= DULL:
        say(
            f"the reward has been equal in {round(dull * groups)} of {groups} groups: nothing to learn from; raise "
            "--temperature, take other prompts, or change the reward"
        )
    unscored = float(state.metrics.get("frac_unjudged", 0.0))
    if unscored >= DULL:
        say(f"{unscored:.0%} of the answers have no reward at all, and teach nothing; see completions.jsonl")
    cut = float(state.metrics.get("completions/clipped_ratio", 0.0))
    if cut >= DULL:
        say(
            f"{cut:.0%} of the answers were cut off at --max_new_tokens: raise it, or teach the model to stop (sft)"
        )


def _append(path: Path, step: int, rows: list[dict[str, Any]]) -> None:
    """Adds one step's line; lines of this step and later ones, which a killed run left, are dropped."""
    line = json.dumps({"step": step, "answers": rows}, ensure_ascii=False) + "\n"
    if path.exists() and _last(path) >= step:
        kept = [old for old in path.read_bytes().splitlines(keepends=True) if _step(old) < step]
        with writing(path):
            write_atomically(path, b"".join(kept))
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(line)


def _last(path: Path) -> int:
    """The step of the last line."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 22)))
        lines = file.read().splitlines()
    return _step(lines[-1]) if lines else 0


def _step(line: bytes) -> int:
    """The step of a line; one that was cut off counts as the last of all, and is dropped."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62
