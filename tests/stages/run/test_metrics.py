"""`readings`: every step is logged, whenever it is read; speeds exclude saves and validation."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from stages.run import metrics as module
from stages.run.log import Writer
from stages.run.metrics import Readings, readings
from stages.run.mfu import ModelFlops
from stages.run.progress import Progress
from stages.state import TrainState


class Rig(NamedTuple):
    """Readings, the clock that the test sets, and the recorded lines and messages."""

    readings: Readings
    clock: list[float]
    lines: list[tuple[int, dict[str, float]]]
    messages: list[str]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def make_rig(clock: list[float], **options: object) -> Rig:
    lines: list[tuple[int, dict[str, float]]] = []
    messages: list[str] = []
    writer = Writer(
        lambda step, values: lines.append((step, dict(values))),
        lambda: messages.append("flush"),
        lambda: None,
    )
    screen = Progress(lambda step, values: None, messages.append, lambda: None)
    observe = lambda state: {}  # noqa: E731
    paths = ("a", "b")
    reader = readings([writer], screen, observe=observe, paths=paths, **options)  # type: ignore[arg-type]
    return Rig(reader, clock, lines, messages)


def make_state(step: int, **metrics: float) -> TrainState:
    named = {name: torch.tensor(value) for name, value in metrics.items()}
    return TrainState(torch.tensor(step), torch.zeros(2), {}, (), {}, named)


def run_step(rig: Rig, step: int, seconds: float, **metrics: float) -> None:
    rig.readings.begin()
    rig.clock[0] += seconds
    rig.readings.add(step, make_state(step, **metrics))


def test_on_a_cpu_each_step_is_written_with_its_own_speed(clock: list[float]) -> None:
    rig = make_rig(clock, model_flops=ModelFlops(flops=1e10, peak=1e13))
    for step, seconds in ((1, 2.0), (2, 4.0)):
        run_step(rig, step, seconds, loss=1.5, tokens=100.0)
        assert rig.readings.is_write_due()
        rig.readings.write({})
        rig.clock[0] += 50.0  # a save: not the step's time
    assert rig.lines == [
        (1, {"loss": 1.5, "tokens": 100.0, "tok_per_sec": 50.0, "tflops": 0.5, "mfu": 0.05}),
        (2, {"loss": 1.5, "tokens": 100.0, "tok_per_sec": 25.0, "tflops": 0.25, "mfu": 0.025}),
    ]


def test_on_a_gpu_sixteen_steps_are_read_together_and_share_a_speed(clock: list[float]) -> None:
    rig = make_rig(clock, every=16)
    for step in range(1, 17):
        run_step(rig, step, 0.1, loss=float(step), tokens=10.0)
        assert rig.readings.is_write_due() == (step == 16)
        assert not rig.lines
    rig.readings.write({"val_loss": 3.0})
    assert [(step, values["loss"]) for step, values in rig.lines] == [(i, float(i)) for i in range(1, 17)]
    assert {round(values["tok_per_sec"], 6) for _, values in rig.lines} == {100.0}
    assert [step for step, values in rig.lines if "val_loss" in values] == [16]


def test_slow_steps_are_read_before_there_are_sixteen(clock: list[float]) -> None:
    rig = make_rig(clock, every=16)
    run_step(rig, 1, 1.5, loss=1.0)
    assert not rig.readings.is_write_due()
    run_step(rig, 2, 1.5, loss=1.0)
    assert rig.readings.is_write_due()


def test_a_metric_is_copied_before_its_storage_is_reused(clock: list[float]) -> None:
    rig = make_rig(clock, every=16)
    donated = make_state(1, loss=1.0)
    rig.readings.begin()
    rig.readings.add(1, donated)
    donated.metrics["loss"].fill_(9.0)  # as the next step does, in the same storage
    rig.readings.add(2, donated)
    rig.clock[0] += 1.0
    rig.readings.write({})
    assert rig.lines == [(1, {"loss": 1.0}), (2, {"loss": 9.0})]


def test_the_clock_stops_before_a_validation(clock: list[float]) -> None:
    rig = make_rig(clock)
    run_step(rig, 1, 2.0, tokens=100.0)
    rig.readings.settle()
    rig.clock[0] += 1000.0
    rig.readings.write({"val_loss": 1.0})
    assert rig.lines == [(1, {"tokens": 100.0, "tok_per_sec": 50.0, "val_loss": 1.0})]


def test_the_compiling_step_reports_seconds_and_no_speed(clock: list[float]) -> None:
    rig = make_rig(clock, every=16, compiling=True, model_flops=ModelFlops(flops=1e10, peak=None))
    run_step(rig, 1, 40.0, tokens=100.0)
    assert rig.readings.is_write_due()
    rig.readings.write({})
    run_step(rig, 2, 1.0, tokens=100.0)
    assert not rig.readings.is_write_due()
    rig.readings.write({})
    assert rig.lines[0] == (1, {"tokens": 100.0, "compile_seconds": 40.0})
    assert rig.lines[1][1]["tok_per_sec"] == 100.0
    assert rig.messages == ["compiled in 40 s, the first step included"]


def test_a_gradient_that_is_not_finite_is_named_and_flushing_reaches_the_writers(clock: list[float]) -> None:
    rig = make_rig(clock)
    run_step(rig, 7, 1.0, nonfinite_leaf=1.0)
    rig.readings.write({})
    rig.readings.flush()
    assert rig.messages == ["step 7: the gradient of b is not finite, so its update was skipped", "flush"]


@pytest.mark.parametrize(
    ("leaf", "message"), [(2.0, "the loss is not finite"), (3.0, "nothing in this batch counts")]
)
def test_a_nonfinite_loss_or_a_batch_without_targets_is_named(
    clock: list[float], leaf: float, message: str
) -> None:
    rig = make_rig(clock)
    run_step(rig, 7, 1.0, nonfinite_leaf=leaf)
    rig.readings.write({})
    assert message in rig.messages[0]
    assert rig.readings.count_skipped() == (1, 1)


def test_without_steps_there_is_nothing_to_write(clock: list[float]) -> None:
    rig = make_rig(clock)
    rig.readings.write({"val_loss": 1.0})
    assert rig.lines == []


def test_skipped_updates_are_reported_at_powers_of_two_and_end_a_run_that_learns_nothing(
    clock: list[float],
) -> None:
    rig = make_rig(clock)
    for step in range(1, 50):
        run_step(rig, step, 1.0, nonfinite_leaf=1.0)
        rig.readings.write({})
    skipped = [text for text in rig.messages if "skipped" in text]
    assert len(skipped) == 7  # at 1, 2, 3, 4, 8, 16, 32
    assert rig.readings.count_skipped() == (49, 49)
    run_step(rig, 50, 1.0, nonfinite_leaf=1.0)
    with pytest.raises(FloatingPointError, match="in 50 consecutive steps"):
        rig.readings.write({})


def test_a_finite_step_restarts_the_count_of_consecutive_skips(clock: list[float]) -> None:
    rig = make_rig(clock)
    for step in range(1, 60):
        run_step(rig, step, 1.0, nonfinite_leaf=-1.0 if step == 30 else 1.0)
        rig.readings.write({})
    assert rig.readings.count_skipped() == (58, 59)
