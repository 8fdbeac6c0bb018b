"""Every stage on two processes: the numbers of one, every completion in the log once, errors of rewards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.cli.main import main
from tests.stages.children import join_all, start_joined
from tests.stages.run.test_processes import assert_refused, printed
from tests.stages.small import rows
from tests.stages.small_stages import NAMES, flags

pytestmark = pytest.mark.processes

RUNS = (
    *((name, {}) for name in ("reward", "kto", "ppo")),
    ("grpo", {"shard": "state"}),
    ("sft", {"shard": "layers", "optimizer": "muon", "ema": 0.9, "patience": 1, "eval_every": 1}),
    ("dpo", {"shard": "layers", "qlora": True}),
)
"""Every stage; half of them hold the state in rows; that of sft ends early, with the best state as its final model."""


@pytest.mark.parametrize(("name", "options"), RUNS)
def test_each_stage_has_the_numbers_of_one_process(name: str, options: dict, tmp_path: Path) -> None:
    changes = {"max_steps": 3, "eval_every": 2, "data_path": tmp_path / f"{name}.jsonl"} | options
    assert main([name, *flags(tmp_path, name, **changes | {"shard": "none"})]) == 0
    arguments = flags(tmp_path, name, **changes, output_dir=tmp_path / "two")
    codes = join_all(start_joined(2, tmp_path / "out", arguments, subcommand=name))
    assert codes == [0, 0], printed(tmp_path / "out", "err")
    assert (tmp_path / "two" / "final_model").exists()
    expected, got = rows(tmp_path / name), rows(tmp_path / "two")
    for one, other in zip(expected, got, strict=True):
        assert one.keys() == other.keys()
        for metric, value in one.items():
            assert float(other[metric]) == pytest.approx(float(value), rel=1e-4, abs=1e-5, nan_ok=True), (
                metric
            )
    if name in ("grpo", "ppo"):
        one, other = ((tmp_path / x / "completions.jsonl").read_text() for x in (name, "two"))
        assert json.loads(one.splitlines()[0]) == json.loads(other.splitlines()[0])
        assert one.count("\n") == other.count("\n") == 3


def test_every_stage_is_run() -> None:
    assert {name for name, _ in RUNS} == set(NAMES)


def test_a_reward_that_fails_on_one_process_ends_all_with_its_message(tmp_path: Path) -> None:
    arguments = flags(tmp_path, "grpo")
    (tmp_path / "short.py").write_text(
        "import os\ndef short(prompt, completion, row):\n    return 1 / (1 - int(os.environ['RANK']))\n"
    )
    assert_refused(tmp_path, arguments, "ZeroDivisionError", subcommand="grpo")


def test_a_batch_with_too_few_rows_for_the_processes_is_refused(tmp_path: Path) -> None:
    message = "--batch_size 4 in --minibatches 4: 1 row for 2 processes"
    assert_refused(tmp_path, flags(tmp_path, "ppo", minibatches=4), message, subcommand="ppo")
    message = "--batch_size 1: 1 row for 2 processes"
    assert_refused(tmp_path, flags(tmp_path, "grpo", batch_size=1), message, subcommand="grpo")
