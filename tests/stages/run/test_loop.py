"""`run` equals the fold of its steps, bit for bit, however often it is interrupted; it stops early, keeps
checkpoints, and reports errors."""

from __future__ import annotations

import errno
import functools
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.transform.jit import jit
from pure.types import Tree
from stages.checkpoint import checkpoint, state_file
from stages.population import population
from stages.pretrain import pretrain
from stages.run import loop
from stages.run.loop import RunOptions, run
from stages.stage import Stage, stage
from stages.state import TrainState
from tests.stages.small import last_state, rows

KEY = random.key(5)
EAGER = RunOptions(compile=False, save_every=1, quiet=True)


def language_model(steps: int = 6, **options: Any) -> tuple[Stage, list[Tree]]:
    """A small language model with dropout, and its batches."""
    model = transformer(
        ModelConfig(
            vocab_size=11,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=8,
            hidden_dropout=0.1,
        )
    )
    rows_of_ids = [random.randint(random.key(100 + i), (4, 7), 0, 11).long() for i in range(steps)]
    batches = [{"tokens": x[:, :-1], "labels": x[:, 1:]} for x in rows_of_ids]
    return pretrain(model, optim.adamw(0.01), ema=0.9, **options), batches


def counting_stage(losses: Sequence[float] = ()) -> tuple[Stage, Callable[[Tree], Mapping[str, float]]]:
    """A stage whose parameter counts its steps, and a validation that returns the loss listed for a step."""

    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        return -params["n"] * batch["x"].sum(), batch["x"].sum(), {}

    a_stage = stage(loss, optim.sgd(1.0), init=lambda key: {"n": torch.zeros(())})
    return a_stage, lambda params: {"val_loss": losses[round(float(params["n"])) - 1]}


def batches_of_ones(steps: int) -> list[Tree]:
    return [{"x": torch.ones(2)} for _ in range(steps)]


def is_bit_identical(one: Tree, other: Tree) -> bool:
    pairs = zip(tree.leaves(one), tree.leaves(other), strict=True)
    return all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs)


def test_a_run_equals_the_fold_of_its_steps_bit_for_bit(tmp_path: Path) -> None:
    a_stage, batches = language_model()
    outcome = run(a_stage, batches, tmp_path, key=KEY, options=EAGER)
    assert is_bit_identical(outcome.state, functools.reduce(a_stage.step, batches, a_stage.init(KEY)))
    assert (outcome.status, outcome.steps, outcome.signal) == ("complete", 6, None)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_run_resumed_after_every_step_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    a_stage, batches = language_model()
    whole = run(a_stage, batches, tmp_path / "whole", key=KEY, options=EAGER)
    for step in range(1, 7):
        outcome = run(a_stage, batches[:step], tmp_path / "parts", key=KEY, options=EAGER)
        assert outcome.steps == 1
    assert is_bit_identical(whole.state, outcome.state)
    assert last_state(tmp_path / "whole") == last_state(tmp_path / "parts")
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")


def test_a_run_starts_from_the_given_params(tmp_path: Path) -> None:
    a_stage, _ = counting_stage()
    outcome = run(
        a_stage, batches_of_ones(2), tmp_path, key=KEY, params={"n": torch.tensor(10.0)}, options=EAGER
    )
    assert outcome.state.params["n"].item() == 12.0


def test_a_stage_without_init_resumes_with_params_whose_values_do_not_count(tmp_path: Path) -> None:
    a_stage = stage(
        lambda params, batch, key: (-params["n"] * batch["x"].sum(), batch["x"].sum(), {}), optim.sgd(1.0)
    )
    start, other = {"n": torch.tensor(10.0)}, {"n": torch.tensor(-3.0)}
    run(a_stage, batches_of_ones(1), tmp_path, key=KEY, params=start, options=EAGER)
    with pytest.raises(ValueError, match="no params to start from"):
        run(a_stage, batches_of_ones(2), tmp_path, key=KEY, options=EAGER)
    resumed = run(a_stage, batches_of_ones(2), tmp_path, key=KEY, params=other, options=EAGER)
    assert (resumed.steps, resumed.state.params["n"].item()) == (1, 12.0)


def test_a_complete_run_takes_no_further_step(tmp_path: Path) -> None:
    a_stage, batches = language_model()
    first = run(a_stage, batches, tmp_path, key=KEY, options=EAGER)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    again = run(a_stage, batches, tmp_path, key=KEY, options=EAGER)
    assert (again.steps, again.status) == (0, "complete")
    assert is_bit_identical(first.state, again.state)
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


def test_a_compiled_run_equals_the_compiled_donated_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = partial(jit, backend="aot_eager")
    monkeypatch.setattr(loop, "jit", quick)
    a_stage, _ = counting_stage()
    batches = [{"x": torch.tensor([0.1, 0.2]) * i} for i in range(1, 4)]
    outcome = run(a_stage, batches, tmp_path, key=KEY, options=RunOptions(quiet=True))
    step = quick(a_stage.step, donate=True, regions=True)
    assert is_bit_identical(outcome.state, functools.reduce(step, batches, a_stage.init(KEY)))
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert ["compile_seconds" in line for line in lines] == [True, False, False]


def test_a_population_runs_and_logs_its_members(tmp_path: Path) -> None:
    a_stage, batches = language_model(3)
    three = population(a_stage, 3)
    run(three, batches[:2], tmp_path, key=KEY, options=EAGER)
    outcome = run(three, batches, tmp_path, key=KEY, options=EAGER)
    assert is_bit_identical(outcome.state, functools.reduce(three.step, batches, three.init(KEY)))
    assert outcome.steps == 1
    for row in rows(tmp_path):
        members = [row[f"loss/{i}"] for i in range(3)]
        assert len(set(members)) == 3
        assert row["loss"] == pytest.approx(sum(members) / 3)


@pytest.mark.parametrize("interrupted", [False, True])
def test_an_interrupted_run_stops_early_at_the_same_step(interrupted: bool, tmp_path: Path) -> None:
    a_stage, validate = counting_stage([5.0, 3.0, 4.0, 2.0, 2.5, 2.5, 2.5, 1.0])
    options = RunOptions(compile=False, save_every=1, eval_every=1, patience=2, quiet=True)
    for step in range(1, 9) if interrupted else [8]:
        outcome = run(a_stage, batches_of_ones(step), tmp_path, key=KEY, validate=validate, options=options)
    assert outcome.status == "early"
    assert int(outcome.state.step) == 6
    assert outcome.best == (2.0, 4, 2)
    assert checkpoint.best(tmp_path) == tmp_path / "checkpoints" / "step-00000004"
    again = run(a_stage, batches_of_ones(8), tmp_path, key=KEY, validate=validate, options=options)
    assert (again.status, again.steps) == ("early", 0)


def test_patience_that_ends_at_the_last_step_ends_the_run_early_each_time(tmp_path: Path) -> None:
    a_stage, validate = counting_stage([5.0, 3.0, 4.0, 4.0])
    options = RunOptions(compile=False, eval_every=1, patience=2, quiet=True)
    for _ in range(2):
        outcome = run(a_stage, batches_of_ones(4), tmp_path, key=KEY, validate=validate, options=options)
        assert (outcome.status, outcome.best) == ("early", (3.0, 2, 2))


def test_an_early_stopped_run_resumes_with_more_patience(tmp_path: Path) -> None:
    a_stage, validate = counting_stage([1.0, 2.0, 2.0, 0.5])
    options = RunOptions(compile=False, eval_every=1, patience=1, quiet=True)
    assert (
        run(a_stage, batches_of_ones(4), tmp_path, key=KEY, validate=validate, options=options).status
        == "early"
    )
    patient = RunOptions(compile=False, eval_every=1, patience=3, quiet=True)
    outcome = run(a_stage, batches_of_ones(4), tmp_path, key=KEY, validate=validate, options=patient)
    assert (outcome.status, outcome.steps, outcome.best.best_step) == ("complete", 2, 4)


def test_the_best_checkpoint_is_kept_as_well_as_the_newest(tmp_path: Path) -> None:
    a_stage, validate = counting_stage([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    options = RunOptions(compile=False, save_every=1, eval_every=1, keep_last=2, quiet=True)
    run(a_stage, batches_of_ones(6), tmp_path, key=KEY, validate=validate, options=options)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000002", "step-00000005", "step-00000006"]


def test_validation_metrics_are_logged_in_the_line_of_their_step(tmp_path: Path) -> None:
    a_stage, validate = counting_stage([9.0, 8.0, 7.0, 6.0, 5.0])
    options = RunOptions(compile=False, eval_every=2, quiet=True)
    run(a_stage, batches_of_ones(5), tmp_path, key=KEY, validate=validate, options=options)
    assert [(row["step"], row.get("val_loss")) for row in rows(tmp_path)] == [
        (1, None),
        (2, 8.0),
        (3, None),
        (4, 6.0),
        (5, 5.0),
    ]


def test_validation_uses_the_averaged_params_if_there_are_any(tmp_path: Path) -> None:
    a_stage, batches = language_model(2)
    seen: list[Tree] = []

    def validate(params: Tree) -> Mapping[str, float]:
        seen.append(params)
        return {"val_loss": 1.0}

    outcome = run(a_stage, batches, tmp_path, key=KEY, validate=validate, options=EAGER)
    assert is_bit_identical(seen[-1], outcome.state.extra["ema"])
    assert not is_bit_identical(seen[-1], outcome.state.params)


def test_a_validation_may_give_a_tensor_of_one_number_and_no_other(tmp_path: Path) -> None:
    a_stage, _ = counting_stage()
    asked = {"key": KEY, "options": EAGER}
    run(
        a_stage,
        batches_of_ones(1),
        tmp_path / "a",
        validate=lambda p: {"val_loss": torch.tensor(2.0)},
        **asked,
    )
    assert rows(tmp_path / "a")[-1]["val_loss"] == 2.0
    with pytest.raises(
        TypeError, match=r"validate gave a tensor of shape \[2\] as 'val_loss'; expected a number"
    ):
        run(
            a_stage,
            batches_of_ones(1),
            tmp_path / "b",
            validate=lambda p: {"val_loss": torch.ones(2)},
            **asked,
        )


def test_a_validation_without_the_watched_metric_is_refused(tmp_path: Path) -> None:
    a_stage, _ = counting_stage()
    with pytest.raises(ValueError, match=r"validate gave accuracy, but options\.watch is 'val_loss'"):
        run(
            a_stage,
            batches_of_ones(1),
            tmp_path,
            key=KEY,
            validate=lambda params: {"accuracy": 1.0},
            options=EAGER,
        )


@dataclass(frozen=True)
class Signalling:
    """A pipe that sends this process a signal while it makes one of its batches."""

    batches: list[Tree]
    at: int
    number: int = signal.SIGTERM

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Tree:
        if index == self.at:
            os.kill(os.getpid(), self.number)
        return self.batches[index]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_is_saved(
    number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    a_stage, batches = language_model()
    before = signal.getsignal(number)
    options = RunOptions(compile=False, quiet=True)
    outcome = run(a_stage, Signalling(batches, 2, number), tmp_path / "parts", key=KEY, options=options)
    assert (outcome.status, outcome.signal, int(outcome.state.step)) == ("interrupted", number, 3)
    assert "the run ends after this step; its state is saved" in capfd.readouterr().err
    assert signal.getsignal(number) == before
    resumed = run(a_stage, batches, tmp_path / "parts", key=KEY, options=options)
    whole = run(a_stage, batches, tmp_path / "whole", key=KEY, options=options)
    assert is_bit_identical(resumed.state, whole.state)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_second_signal_during_the_save_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_stage, batches = language_model()
    original_write, sent = state_file.write, []

    def slow(path: Path, state: Tree) -> Any:
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            sent.append(number)
        return original_write(path, state)

    monkeypatch.setattr(state_file, "write", slow)
    outcome = run(
        a_stage, Signalling(batches, 1), tmp_path, key=KEY, options=RunOptions(compile=False, quiet=True)
    )
    assert sent == [signal.SIGTERM, signal.SIGINT]
    assert (outcome.status, outcome.signal) == ("interrupted", signal.SIGTERM)
    assert checkpoint.load(tmp_path, outcome.state).step == 2


def test_a_run_signalled_in_its_last_step_is_complete(tmp_path: Path) -> None:
    a_stage, batches = language_model(3)
    outcome = run(a_stage, Signalling(batches, 2), tmp_path, key=KEY, options=EAGER)
    assert (outcome.status, outcome.signal) == ("complete", None)


def test_a_step_that_fails_because_of_a_signal_is_an_interruption(tmp_path: Path) -> None:
    """As when Ctrl-C also ends the C++ compiler that torch has started."""
    a_stage, batches = language_model()

    def step(state: TrainState, batch: Tree) -> TrainState:
        if int(state.step) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            raise RuntimeError("the compiler failed")
        return a_stage.step(state, batch)

    with pytest.raises(KeyboardInterrupt):
        run(a_stage._replace(step=step), batches, tmp_path, key=KEY, options=EAGER)
    assert run(a_stage, batches, tmp_path, key=KEY, options=EAGER).steps == 4


def raise_disk_full(path: Path, state: Tree) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("steps", [2, 5])
def test_a_failed_save_is_raised_at_the_next_save_or_at_the_end(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_stage, batches = language_model()
    run(a_stage, batches[:1], tmp_path, key=KEY, options=EAGER)
    with monkeypatch.context() as patch:
        patch.setattr(state_file, "write", raise_disk_full)
        with pytest.raises(OSError, match=r"could not save .*No space left on device; make room there"):
            run(a_stage, batches[:steps], tmp_path, key=KEY, options=EAGER)
    logged = len(rows(tmp_path))
    assert logged == min(steps, 3)  # it did not train for long without saving
    outcome = run(a_stage, batches, tmp_path, key=KEY, options=EAGER)
    assert outcome.steps == 5
    assert is_bit_identical(outcome.state, functools.reduce(a_stage.step, batches, a_stage.init(KEY)))
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_an_error_in_a_step_keeps_the_saved_checkpoints(tmp_path: Path) -> None:
    a_stage, batches = language_model()
    with pytest.raises(KeyError, match="labels"):
        run(a_stage, [*batches[:3], {"tokens": batches[0]["tokens"]}], tmp_path, key=KEY, options=EAGER)
    assert run(a_stage, batches, tmp_path, key=KEY, options=EAGER).steps == 3


def test_resume_false_refuses_a_folder_with_checkpoints(tmp_path: Path) -> None:
    a_stage, _ = counting_stage()
    run(a_stage, batches_of_ones(1), tmp_path, key=KEY, options=EAGER)
    with pytest.raises(
        ValueError, match="holds checkpoints of an earlier run; resume it, or choose another folder"
    ):
        run(
            a_stage,
            batches_of_ones(1),
            tmp_path,
            key=KEY,
            options=RunOptions(compile=False, resume=False, quiet=True),
        )


def test_a_changed_fingerprint_is_refused_by_name(tmp_path: Path) -> None:
    a_stage, _ = counting_stage()
    run(a_stage, batches_of_ones(1), tmp_path, key=KEY, fingerprint={"rate": "1.0"}, options=EAGER)
    with pytest.raises(ValueError, match=r"rate was 1\.0, is 2\.0"):
        run(a_stage, batches_of_ones(2), tmp_path, key=KEY, fingerprint={"rate": "2.0"}, options=EAGER)


def damage(path: Path) -> None:
    data = bytearray((path / "state.msgpack").read_bytes())
    data[-5] ^= 1
    (path / "state.msgpack").write_bytes(data)


def test_a_damaged_checkpoint_is_skipped_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_stage, batches = language_model()
    run(a_stage, batches[:4], tmp_path, key=KEY, options=EAGER)
    damage(tmp_path / "checkpoints" / "step-00000004")
    outcome = run(a_stage, batches, tmp_path, key=KEY, options=RunOptions(compile=False))
    assert "skipped a damaged checkpoint" in capsys.readouterr().out
    assert outcome.steps == 3
    assert is_bit_identical(outcome.state, functools.reduce(a_stage.step, batches, a_stage.init(KEY)))
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_run_with_only_damaged_checkpoints_is_refused(tmp_path: Path) -> None:
    a_stage, _ = counting_stage()
    run(a_stage, batches_of_ones(1), tmp_path, key=KEY, options=EAGER)
    damage(tmp_path / "checkpoints" / "step-00000001")
    with pytest.raises(ValueError, match="no undamaged checkpoint"):
        run(a_stage, batches_of_ones(2), tmp_path, key=KEY, options=EAGER)


def test_a_nonfinite_gradient_is_named_and_its_update_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_stage, _ = counting_stage()
    batches = [*batches_of_ones(1), {"x": torch.full((2,), torch.inf)}, *batches_of_ones(1)]
    outcome = run(a_stage, batches, tmp_path, key=KEY, options=RunOptions(compile=False))
    assert "step 2: the gradient of n is not finite, so its update was skipped" in capsys.readouterr().out
    assert (int(outcome.state.step), outcome.state.params["n"].item()) == (3, 2.0)
    assert rows(tmp_path)[1]["grad_norm"] in ("inf", "nan")


def test_writers_get_every_step_with_the_observed_metrics(tmp_path: Path) -> None:
    from stages.run.log import Writer

    a_stage, _ = counting_stage()
    run(a_stage, batches_of_ones(1), tmp_path, key=KEY, options=EAGER)
    seen: list[tuple[int, float]] = []
    first_steps: list[int] = []  # of each writer; -1 when it is closed

    def writer(step: int) -> Writer:
        first_steps.append(step)
        return Writer(
            lambda step, values: seen.append((step, values["twice"])),
            lambda: None,
            lambda: first_steps.append(-1),
        )

    def observe(state: TrainState) -> Mapping[str, Tensor]:
        return {"twice": 2 * state.params["n"]}

    run(a_stage, batches_of_ones(3), tmp_path, key=KEY, observe=observe, writers=[writer], options=EAGER)
    assert first_steps == [1, -1]
    assert seen == [(2, 4.0), (3, 6.0)]
    assert rows(tmp_path)[-1]["twice"] == 6.0


@pytest.mark.parametrize("patience", [0, 2])
def test_a_run_whose_steps_were_mostly_skipped_fails(tmp_path: Path, patience: int) -> None:
    """Both a run that ends by its last step and one that ends by its patience."""
    a_stage, validate = counting_stage([1.0])
    batches = [*batches_of_ones(1), *({"x": torch.full((2,), torch.inf)} for _ in range(5))]
    options = RunOptions(compile=False, quiet=True, eval_every=1, patience=patience)
    with pytest.raises(FloatingPointError, match=r"the updates of \d of \d steps were skipped"):
        run(a_stage, batches, tmp_path, key=KEY, validate=validate, options=options)
