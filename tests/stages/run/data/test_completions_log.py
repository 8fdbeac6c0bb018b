"""The log of completions: one JSON line a step, also after a kill; warnings say why nothing is learned."""

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

TOKENIZER = tokenizer()


def make_recorder(folder: Path, messages: list[str], **options: object) -> Recorder:
    chosen = {"names": ("a",), "prompts": ["p0", "p1"], "table_every": 2, "samples": 2} | options
    return recorder(folder, tokenizer=TOKENIZER, say=messages.append, **chosen)


def make_state(step: int, **metrics: float) -> TrainState:
    given = {name.replace("__", "/"): torch.tensor(value) for name, value in metrics.items()}
    return TrainState(torch.tensor(step), random.key(0), {}, (), {}, given)


def record_step(
    log: Recorder, step: int, rewards: tuple[float, float] = (1.0, 0.5), **metrics: float
) -> None:
    log.remember(ROLLOUTS, torch.tensor(rewards)[:, None])
    log.write(make_state(step, **metrics))


def read_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


def test_a_step_logs_index_prompt_and_rewards_of_each_completion(tmp_path: Path) -> None:
    record_step(make_recorder(tmp_path, []), 1, rewards=(1.0, float("nan")))
    first, second = read_lines(tmp_path)[0]["answers"]
    assert (first["index"], first["prompt"], first["rewards"]) == (1, "p1", {"a": 1.0})
    assert second["rewards"] == {"a": None}


def test_completions_after_the_checkpoint_of_a_killed_run_are_dropped(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        record_step(make_recorder(tmp_path, []), step)
    with (tmp_path / NAME).open("a") as file:
        file.write('{"step": 4, "answ')
    record_step(make_recorder(tmp_path, []), 2)
    assert [line["step"] for line in read_lines(tmp_path)] == [1, 2]


def test_a_table_is_printed_at_step_one_and_every_table_every_steps(tmp_path: Path) -> None:
    messages: list[str] = []
    log = make_recorder(tmp_path, messages)
    for step in (1, 2, 3, 4):
        record_step(log, step)
    assert [text.split(":")[0] for text in messages] == ["step 1", "step 2", "step 4"]
    silent: list[str] = []
    record_step(make_recorder(tmp_path, silent, table_every=0), 1)
    assert silent == []


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"frac_reward_zero_std": 1.0}, "equal in 1 of 1 group: nothing to learn from"),
        ({"completions__clipped_ratio": 0.95}, "95% of the completions were cut off"),
    ],
)
def test_a_warning_says_why_nothing_is_learned(metrics: dict, message: str, tmp_path: Path) -> None:
    messages: list[str] = []
    record_step(make_recorder(tmp_path, messages), 2, **metrics)
    assert message in messages[-1]


def test_a_step_without_new_completions_writes_nothing(tmp_path: Path) -> None:
    log = make_recorder(tmp_path, [])
    log.write(make_state(1))
    assert not (tmp_path / NAME).exists()


def test_line_separators_in_a_prompt_do_not_split_a_log_line(tmp_path: Path) -> None:
    """U+2028 and U+0085 end a line for `str.splitlines`, and stand unescaped in JSON."""
    for step in (1, 2, 3):
        record_step(make_recorder(tmp_path, [], prompts=["a\u2028b\x85c", "p1"]), step)
    record_step(make_recorder(tmp_path, [], prompts=["a\u2028b\x85c", "p1"]), 3)
    *logged, after_the_last = (tmp_path / NAME).read_bytes().split(b"\n")
    assert [json.loads(line)["step"] for line in logged] == [1, 2, 3]
    assert after_the_last == b""


def test_completions_without_rewards_are_reported(tmp_path: Path) -> None:
    messages: list[str] = []
    record_step(make_recorder(tmp_path, messages), 2, frac_unjudged=1.0)
    assert messages[-1].startswith("100% of the completions have no reward")


def test_the_table_shows_the_best_and_the_worst_completions() -> None:
    rows = [{"prompt": "p" * 99, "completion": f"answer {i}", "rewards": {"a": float(i)}} for i in range(9)]
    shown = render_table(1, rows).splitlines()
    assert [line.split()[0] for line in shown[1:]] == ["8.00", "7.00", "1.00", "0.00"]
    assert "…" in shown[1]  # the long prompt is cut


def test_a_full_disk_is_reported_by_the_recorder(tmp_path: Path) -> None:
    log = make_recorder(tmp_path, [])
    log.remember(ROLLOUTS, torch.ones(2, 1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"cannot write .*{NAME}: File too large; make room there"):
            log.write(make_state(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
