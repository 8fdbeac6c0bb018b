"""Completions are logged, one line a step, also after a kill; a warning is printed if nothing is learned."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch

from pure import random
from stages.run.data.completions_log import NAME, Recorder, recorder, render_table
from stages.state import TrainState
from tests.data_pipes.chats import tokenizer
from tests.stages.test_score import ROLLOUTS

WORDS = tokenizer()


def make(
    folder: Path, said: list[str], values: tuple[float, float] = (1.0, 0.5), **options: object
) -> Recorder:
    chosen = {"names": ("a",), "prompts": ["p0", "p1"], "table_every": 2, "samples": 2} | options
    score = lambda rollouts: torch.tensor(values)[:, None]  # noqa: E731
    return recorder(score, folder, tokenizer=WORDS, say=said.append, **chosen)


def state(step: int, **metrics: float) -> TrainState:
    given = {name.replace("__", "/"): torch.tensor(value) for name, value in metrics.items()}
    return TrainState(torch.tensor(step), random.key(0), {}, (), {}, given)


def take(made: Recorder, step: int, **metrics: float) -> None:
    made.score(ROLLOUTS)
    assert made.observe(state(step, **metrics)) == {}


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


def test_one_line_a_step_with_everything_that_was_rewarded(tmp_path: Path) -> None:
    made = make(tmp_path, [], values=(1.0, float("nan")))
    take(made, 1)
    first, second = lines(tmp_path)[0]["answers"]
    assert (first["index"], first["prompt"], first["rewards"]) == (1, "p1", {"a": 1.0})
    assert second["rewards"] == {"a": None}


def test_completions_after_the_checkpoint_of_a_killed_run_are_dropped(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        take(make(tmp_path, []), step)
    with (tmp_path / NAME).open("a") as file:
        file.write('{"step": 4, "answ')
    take(make(tmp_path, []), 2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_a_table_now_and_then(tmp_path: Path) -> None:
    said: list[str] = []
    made = make(tmp_path, said)
    for step in (1, 2, 3, 4):
        take(made, step)
    assert [text.split(":")[0] for text in said] == ["step 1", "step 2", "step 4"]
    silent: list[str] = []
    take(make(tmp_path, silent, table_every=0), 1)
    assert silent == []


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"frac_reward_zero_std": 1.0}, "equal in 1 of 1 groups: nothing to learn from"),
        ({"completions__clipped_ratio": 0.95}, "95% of the completions were cut off"),
    ],
)
def test_it_prints_why_nothing_is_learned(metrics: dict, words: str, tmp_path: Path) -> None:
    said: list[str] = []
    take(make(tmp_path, said), 2, **metrics)
    assert words in said[-1]


def test_a_state_without_new_answers_writes_nothing(tmp_path: Path) -> None:
    made = make(tmp_path, [])
    made.observe(state(1))
    assert not (tmp_path / NAME).exists()


def test_a_line_with_separators_inside_an_answer_stays_one(tmp_path: Path) -> None:
    """U+2028 and U+0085 end a line for `str.splitlines`, and stand unescaped in JSON."""
    for step in (1, 2, 3):
        take(make(tmp_path, [], prompts=["a\u2028b\x85c", "p1"]), step)
    take(make(tmp_path, [], prompts=["a\u2028b\x85c", "p1"]), 3)
    assert [line["step"] for line in map(json.loads, (tmp_path / NAME).read_bytes().split(b"\n")[:-1])] == [
        1,
        2,
        3,
    ]


def test_completions_without_rewards_are_reported(tmp_path: Path) -> None:
    said: list[str] = []
    take(make(tmp_path, said), 2, frac_unjudged=1.0)
    assert said[-1].startswith("100% of the completions have no reward")


def test_the_best_and_the_worst_are_shown() -> None:
    rows = [{"prompt": "p" * 99, "completion": f"answer {i}", "rewards": {"a": float(i)}} for i in range(9)]
    shown = render_table(1, rows).splitlines()
    assert [line.split()[0] for line in shown[1:]] == ["8.00", "7.00", "1.00", "0.00"]
    assert "…" in shown[1]


def test_a_full_disk_is_reported_by_the_recorder(tmp_path: Path) -> None:
    made = make(tmp_path, [])
    made.score(ROLLOUTS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"cannot write .*{NAME}: File too large; make room there"):
            made.observe(state(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
