"""A run is the fold, bit for bit, however often it is interrupted; and it stops, keeps and says what it
should."""

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


def language(steps: int = 6, **options: Any) -> tuple[Stage, list[Tree]]:
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
    drawn = [random.randint(random.key(100 + i), (4, 7), 0, 11).long() for i in range(steps)]
    batches = [{"tokens": x[:, :-1], "labels": x[:, 1:]} for x in drawn]
    return pretrain(model, optim.adamw(0.01), ema=0.9, **options), batches


def counting(losses: Sequence[float] = ()) -> tuple[Stage, Callable[[Tree], Mapping[str, float]]]:
    """A stage whose parameter counts its steps, and a validation that gives what is listed for each step."""

    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        return -params["n"] * batch["x"].sum(), batch["x"].sum(), {}

    made = stage(loss, optim.sgd(1.0), init=lambda key: {"n": torch.zeros(())})
    return made, lambda params: {"val_loss": losses[round(float(params["n"])) - 1]}


def ones(steps: int) -> list[Tree]:
    return [{"x": torch.ones(2)} for _ in range(steps)]


def is_bit_identical(one: Tree, other: Tree) -> bool:
    pairs = zip(tree.leaves(one), tree.leaves(other), strict=True)
    return all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs)


def test_a_run_is_the_fold_bit_for_bit(tmp_path: Path) -> None:
    made, batches = language()
    outcome = run(made, batches, tmp_path, key=KEY, options=EAGER)
    assert is_bit_identical(outcome.state, functools.reduce(made.step, batches, made.init(KEY)))
    assert (outcome.status, outcome.steps, outcome.signal) == ("complete", 6, None)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_resumed_after_every_step_equals_uninterrupted(tmp_path: Path) -> None:
    made, batches = language()
    whole = run(made, batches, tmp_path / "whole", key=KEY, options=EAGER)
    for step in range(1, 7):
        outcome = run(made, batches[:step], tmp_path / "parts", key=KEY, options=EAGER)
        assert outcome.steps == 1
    assert is_bit_identical(whole.state, outcome.state)
    assert last_state(tmp_path / "whole") == last_state(tmp_path / "parts")
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")


def test_given_params_begin_the_run(tmp_path: Path) -> None:
    made, _ = counting()
    outcome = run(made, ones(2), tmp_path, key=KEY, params={"n": torch.tensor(10.0)}, options=EAGER)
    assert outcome.state.params["n"].item() == 12.0


def test_a_complete_run_takes_no_further_step(tmp_path: Path) -> None:
    made, batches = language()
    first = run(made, batches, tmp_path, key=KEY, options=EAGER)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    again = run(made, batches, tmp_path, key=KEY, options=EAGER)
    assert (again.steps, again.status) == (0, "complete")
    assert is_bit_identical(first.state, again.state)
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


def test_compiled_it_is_the_compiled_donated_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(jit, backend="aot_eager")
    monkeypatch.setattr(loop, "jit", quick)
    made, _ = counting()
    batches = [{"x": torch.tensor([0.1, 0.2]) * i} for i in range(1, 4)]
    outcome = run(made, batches, tmp_path, key=KEY, options=RunOptions(quiet=True))
    step = quick(made.step, donate=True, regions=True)
    assert is_bit_identical(outcome.state, functools.reduce(step, batches, made.init(KEY)))
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert ["compile_seconds" in line for line in lines] == [True, False, False]


def test_a_population_is_run_like_any_stage(tmp_path: Path) -> None:
    made, batches = language(3)
    three = population(made, 3)
    run(three, batches[:2], tmp_path, key=KEY, options=EAGER)
    outcome = run(three, batches, tmp_path, key=KEY, options=EAGER)
    assert is_bit_identical(outcome.state, functools.reduce(three.step, batches, three.init(KEY)))
    assert outcome.steps == 1
    for row in rows(tmp_path):
        members = [row[f"loss/{i}"] for i in range(3)]
        assert len(set(members)) == 3
        assert row["loss"] == pytest.approx(sum(members) / 3)


@pytest.mark.parametrize("chain", [False, True])
def test_it_stops_early_where_it_would_have_without_interruptions(chain: bool, tmp_path: Path) -> None:
    made, validate = counting([5.0, 3.0, 4.0, 2.0, 2.5, 2.5, 2.5, 1.0])
    options = RunOptions(compile=False, save_every=1, eval_every=1, patience=2, quiet=True)
    for step in range(1, 9) if chain else [8]:
        outcome = run(made, ones(step), tmp_path, key=KEY, validate=validate, options=options)
    assert outcome.status == "early"
    assert int(outcome.state.step) == 6
    assert outcome.best == (2.0, 4, 2)
    assert checkpoint.best(tmp_path) == tmp_path / "checkpoints" / "step-00000004"
    again = run(made, ones(8), tmp_path, key=KEY, validate=validate, options=options)
    assert (again.status, again.steps) == ("early", 0)


def test_a_stopped_run_resumes_with_more_patience(tmp_path: Path) -> None:
    made, validate = counting([1.0, 2.0, 2.0, 0.5])
    options = RunOptions(compile=False, eval_every=1, patience=1, quiet=True)
    assert run(made, ones(4), tmp_path, key=KEY, validate=validate, options=options).status == "early"
    patient = RunOptions(compile=False, eval_every=1, patience=3, quiet=True)
    outcome = run(made, ones(4), tmp_path, key=KEY, validate=validate, options=patient)
    assert (outcome.status, outcome.steps, outcome.best.best_step) == ("complete", 2, 4)


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    made, validate = counting([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    options = RunOptions(compile=False, save_every=1, eval_every=1, keep_last=2, quiet=True)
    run(made, ones(6), tmp_path, key=KEY, validate=validate, options=options)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000002", "step-00000005", "step-00000006"]


def test_validation_stands_in_the_line_of_its_step(tmp_path: Path) -> None:
    made, validate = counting([9.0, 8.0, 7.0, 6.0, 5.0])
    options = RunOptions(compile=False, eval_every=2, quiet=True)
    run(made, ones(5), tmp_path, key=KEY, validate=validate, options=options)
    assert [(row["step"], row.get("val_loss")) for row in rows(tmp_path)] == [
        (1, None),
        (2, 8.0),
        (3, None),
        (4, 6.0),
        (5, 5.0),
    ]


def test_validation_sees_the_average_where_there_is_one(tmp_path: Path) -> None:
    made, batches = language(2)
    seen: list[Tree] = []

    def validate(params: Tree) -> Mapping[str, float]:
        seen.append(params)
        return {"val_loss": 1.0}

    outcome = run(made, batches, tmp_path, key=KEY, validate=validate, options=EAGER)
    assert is_bit_identical(seen[-1], outcome.state.extra["ema"])
    assert not is_bit_identical(seen[-1], outcome.state.params)


def test_a_validation_without_the_watched_metric_is_refused(tmp_path: Path) -> None:
    made, _ = counting()
    with pytest.raises(ValueError, match=r"validate gave accuracy, but options\.watch is 'val_loss'"):
        run(made, ones(1), tmp_path, key=KEY, validate=lambda params: {"accuracy": 1.0}, options=EAGER)


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
def test_a_signal_ends_the_step_saves_and_ends_the_run(
    number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made, batches = language()
    before = signal.getsignal(number)
    options = RunOptions(compile=False, quiet=True)
    outcome = run(made, Signalling(batches, 2, number), tmp_path / "parts", key=KEY, options=options)
    assert (outcome.status, outcome.signal, int(outcome.state.step)) == ("interrupted", number, 3)
    assert "the run ends after this step; its state is saved" in capfd.readouterr().err
    assert signal.getsignal(number) == before
    resumed = run(made, batches, tmp_path / "parts", key=KEY, options=options)
    whole = run(made, batches, tmp_path / "whole", key=KEY, options=options)
    assert is_bit_identical(resumed.state, whole.state)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_second_signal_during_the_save_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, batches = language()
    written, sent = state_file.write, []

    def slow(path: Path, state: Tree) -> Any:
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            sent.append(number)
        return written(path, state)

    monkeypatch.setattr(state_file, "write", slow)
    outcome = run(
        made, Signalling(batches, 1), tmp_path, key=KEY, options=RunOptions(compile=False, quiet=True)
    )
    assert sent == [signal.SIGTERM, signal.SIGINT]
    assert (outcome.status, outcome.signal) == ("interrupted", signal.SIGTERM)
    assert checkpoint.load(tmp_path, outcome.state).step == 2


def test_a_signal_in_the_last_step_leaves_it_complete(tmp_path: Path) -> None:
    made, batches = language(3)
    outcome = run(made, Signalling(batches, 2), tmp_path, key=KEY, options=EAGER)
    assert (outcome.status, outcome.signal) == ("complete", None)


def test_a_step_that_fails_because_of_a_signal_is_an_interruption(tmp_path: Path) -> None:
    """As when Ctrl-C ends the C++ compiler that works for us."""
    made, batches = language()

    def step(state: TrainState, batch: Tree) -> TrainState:
        if int(state.step) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            raise RuntimeError("the compiler failed")
        return made.step(state, batch)

    with pytest.raises(KeyboardInterrupt):
        run(made._replace(step=step), batches, tmp_path, key=KEY, options=EAGER)
    assert run(made, batches, tmp_path, key=KEY, options=EAGER).steps == 4


def full(path: Path, state: Tree) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("steps", [2, 5])
def test_a_save_that_fails_shows_at_the_next_or_at_the_end(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, batches = language()
    run(made, batches[:1], tmp_path, key=KEY, options=EAGER)
    with monkeypatch.context() as patch:
        patch.setattr(state_file, "write", full)
        with pytest.raises(OSError, match=r"could not save .*No space left on device; make room there"):
            run(made, batches[:steps], tmp_path, key=KEY, options=EAGER)
    logged = len(rows(tmp_path))
    assert logged == min(steps, 3)  # it did not go on for long without saving
    outcome = run(made, batches, tmp_path, key=KEY, options=EAGER)
    assert outcome.steps == 5
    assert is_bit_identical(outcome.state, functools.reduce(made.step, batches, made.init(KEY)))
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_an_error_in_a_step_keeps_the_saved_checkpoints(tmp_path: Path) -> None:
    made, batches = language()
    with pytest.raises(KeyError, match="labels"):
        run(made, [*batches[:3], {"tokens": batches[0]["tokens"]}], tmp_path, key=KEY, options=EAGER)
    assert run(made, batches, tmp_path, key=KEY, options=EAGER).steps == 3


def test_resume_false_refuses_a_folder_with_checkpoints(tmp_path: Path) -> None:
    made, _ = counting()
    run(made, ones(1), tmp_path, key=KEY, options=EAGER)
    with pytest.raises(
        ValueError, match="holds checkpoints of an earlier run; resume it, or choose another folder"
    ):
        run(made, ones(1), tmp_path, key=KEY, options=RunOptions(compile=False, resume=False, quiet=True))


def test_another_fingerprint_is_refused_by_name(tmp_path: Path) -> None:
    made, _ = counting()
    run(made, ones(1), tmp_path, key=KEY, fingerprint={"rate": "1.0"}, options=EAGER)
    with pytest.raises(ValueError, match=r"rate was 1\.0, is 2\.0"):
        run(made, ones(2), tmp_path, key=KEY, fingerprint={"rate": "2.0"}, options=EAGER)


def spoil(path: Path) -> None:
    data = bytearray((path / "state.msgpack").read_bytes())
    data[-5] ^= 1
    (path / "state.msgpack").write_bytes(data)


def test_a_damaged_checkpoint_is_skipped_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, batches = language()
    run(made, batches[:4], tmp_path, key=KEY, options=EAGER)
    spoil(tmp_path / "checkpoints" / "step-00000004")
    outcome = run(made, batches, tmp_path, key=KEY, options=RunOptions(compile=False))
    assert "skipped a damaged checkpoint" in capsys.readouterr().out
    assert outcome.steps == 3
    assert is_bit_identical(outcome.state, functools.reduce(made.step, batches, made.init(KEY)))
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_if_all_are_damaged_it_does_not_begin_anew(tmp_path: Path) -> None:
    made, _ = counting()
    run(made, ones(1), tmp_path, key=KEY, options=EAGER)
    spoil(tmp_path / "checkpoints" / "step-00000001")
    with pytest.raises(ValueError, match="no undamaged checkpoint"):
        run(made, ones(2), tmp_path, key=KEY, options=EAGER)


def test_a_gradient_that_is_not_finite_is_named_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, _ = counting()
    batches = [*ones(1), {"x": torch.full((2,), torch.inf)}, *ones(1)]
    outcome = run(made, batches, tmp_path, key=KEY, options=RunOptions(compile=False))
    assert "step 2: the gradient of n is not finite, so its update was skipped" in capsys.readouterr().out
    assert (int(outcome.state.step), outcome.state.params["n"].item()) == (3, 2.0)
    assert rows(tmp_path)[1]["grad_norm"] in ("inf", "nan")


def test_observed_metrics_and_other_writers_get_every_step(tmp_path: Path) -> None:
    from stages.run.log import Writer

    made, _ = counting()
    run(made, ones(1), tmp_path, key=KEY, options=EAGER)
    seen: list[tuple[int, float]] = []
    begun: list[int] = []

    def writer(step: int) -> Writer:
        begun.append(step)
        return Writer(
            lambda step, values: seen.append((step, values["twice"])), lambda: None, lambda: begun.append(-1)
        )

    def observe(state: TrainState) -> Mapping[str, Tensor]:
        return {"twice": 2 * state.params["n"]}

    run(made, ones(3), tmp_path, key=KEY, observe=observe, writers=[writer], options=EAGER)
    assert begun == [1, -1]
    assert seen == [(2, 4.0), (3, 6.0)]
    assert rows(tmp_path)[-1]["twice"] == 6.0


@pytest.mark.parametrize("patience", [0, 2])
def test_a_run_whose_steps_were_mostly_skipped_fails_however_it_ends(tmp_path: Path, patience: int) -> None:
    """By its end, or by its patience: validation does not improve where nothing is learned."""
    made, validate = counting([1.0])
    batches = [*ones(1), *({"x": torch.full((2,), torch.inf)} for _ in range(5))]
    options = RunOptions(compile=False, quiet=True, eval_every=1, patience=patience)
    with pytest.raises(FloatingPointError, match=r"the updates of \d of \d steps were skipped"):
        run(made, batches, tmp_path, key=KEY, validate=validate, options=options)
