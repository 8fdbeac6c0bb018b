"""Every step gets its line, whenever it is read; the clock stops where it should."""

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
    """Readings with a clock that the test sets, and what they gave."""

    made: Readings
    clock: list[float]
    lines: list[tuple[int, dict[str, float]]]
    said: list[str]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def rig(clock: list[float], **options: object) -> Rig:
    lines: list[tuple[int, dict[str, float]]] = []
    said: list[str] = []
    writer = Writer(
        lambda step, values: lines.append((step, dict(values))), lambda: said.append("flush"), lambda: None
    )
    screen = Progress(lambda step, values: None, said.append, lambda: None)
    made = readings([writer], screen, observe=lambda state: {}, paths=("a", "b"), **options)  # type: ignore[arg-type]
    return Rig(made, clock, lines, said)


def state(step: int, **metrics: float) -> TrainState:
    named = {name: torch.tensor(value) for name, value in metrics.items()}
    return TrainState(torch.tensor(step), torch.zeros(2), {}, (), {}, named)


def take(rig: Rig, step: int, seconds: float, **metrics: float) -> None:
    rig.made.begin()
    rig.clock[0] += seconds
    rig.made.add(step, state(step, **metrics))


def test_on_a_cpu_each_step_is_due_and_has_its_own_speed(clock: list[float]) -> None:
    r = rig(clock, model_flops=ModelFlops(flops=1e10, peak=1e13))
    for step, seconds in ((1, 2.0), (2, 4.0)):
        take(r, step, seconds, loss=1.5, tokens=100.0)
        assert r.made.is_write_due()
        r.made.write({})
        r.clock[0] += 50.0  # a save: not the step's time
    assert r.lines == [
        (1, {"loss": 1.5, "tokens": 100.0, "tok_per_sec": 50.0, "tflops": 0.5, "mfu": 0.05}),
        (2, {"loss": 1.5, "tokens": 100.0, "tok_per_sec": 25.0, "tflops": 0.25, "mfu": 0.025}),
    ]


def test_on_a_gpu_sixteen_are_read_at_a_time_and_share_a_speed(clock: list[float]) -> None:
    r = rig(clock, every=16)
    for step in range(1, 17):
        take(r, step, 0.1, loss=float(step), tokens=10.0)
        assert r.made.is_write_due() == (step == 16)
        assert not r.lines
    r.made.write({"val_loss": 3.0})
    assert [(step, values["loss"]) for step, values in r.lines] == [(i, float(i)) for i in range(1, 17)]
    assert {round(values["tok_per_sec"], 6) for _, values in r.lines} == {100.0}
    assert [step for step, values in r.lines if "val_loss" in values] == [16]


def test_slow_steps_are_read_sooner(clock: list[float]) -> None:
    r = rig(clock, every=16)
    take(r, 1, 1.5, loss=1.0)
    assert not r.made.is_write_due()
    take(r, 2, 1.5, loss=1.0)
    assert r.made.is_write_due()


def test_a_donated_metric_is_read_as_it_was(clock: list[float]) -> None:
    r = rig(clock, every=16)
    donated = state(1, loss=1.0)
    r.made.begin()
    r.made.add(1, donated)
    donated.metrics["loss"].fill_(9.0)  # as the next step does, in the same storage
    r.made.add(2, donated)
    r.clock[0] += 1.0
    r.made.write({})
    assert r.lines == [(1, {"loss": 1.0}), (2, {"loss": 9.0})]


def test_the_clock_stops_before_a_validation(clock: list[float]) -> None:
    r = rig(clock)
    take(r, 1, 2.0, tokens=100.0)
    r.made.settle()
    r.clock[0] += 1000.0
    r.made.write({"val_loss": 1.0})
    assert r.lines == [(1, {"tokens": 100.0, "tok_per_sec": 50.0, "val_loss": 1.0})]


def test_the_step_that_compiles_has_seconds_and_no_speed(clock: list[float]) -> None:
    r = rig(clock, every=16, compiling=True, model_flops=ModelFlops(flops=1e10, peak=None))
    take(r, 1, 40.0, tokens=100.0)
    assert r.made.is_write_due()
    r.made.write({})
    take(r, 2, 1.0, tokens=100.0)
    assert not r.made.is_write_due()
    r.made.write({})
    assert r.lines[0] == (1, {"tokens": 100.0, "compile_seconds": 40.0})
    assert r.lines[1][1]["tok_per_sec"] == 100.0
    assert r.said == ["compiled in 40 s, the first step included"]


def test_a_gradient_that_is_not_finite_is_named_and_flushing_reaches_the_writers(clock: list[float]) -> None:
    r = rig(clock)
    take(r, 7, 1.0, nonfinite_leaf=1.0)
    r.made.write({})
    r.made.flush()
    assert r.said == ["step 7: the gradient of b is not finite, so its update was skipped", "flush"]


@pytest.mark.parametrize(
    ("leaf", "said"), [(2.0, "the loss is not finite"), (3.0, "nothing in this batch counts")]
)
def test_a_loss_that_no_step_can_be_taken_with_is_named(clock: list[float], leaf: float, said: str) -> None:
    r = rig(clock)
    take(r, 7, 1.0, nonfinite_leaf=leaf)
    r.made.write({})
    assert said in r.said[0]
    assert r.made.count_skipped() == (1, 1)


def test_without_steps_there_is_nothing_to_write(clock: list[float]) -> None:
    r = rig(clock)
    r.made.write({"val_loss": 1.0})
    assert r.lines == []


def test_skipped_updates_are_reported_at_powers_of_two_and_end_a_run_that_learns_nothing(
    clock: list[float],
) -> None:
    r = rig(clock)
    for step in range(1, 50):
        take(r, step, 1.0, nonfinite_leaf=1.0)
        r.made.write({})
    skipped = [text for text in r.said if "skipped" in text]
    assert len(skipped) == 7  # at 1, 2, 3, 4, 8, 16, 32
    assert r.made.count_skipped() == (49, 49)
    take(r, 50, 1.0, nonfinite_leaf=1.0)
    with pytest.raises(FloatingPointError, match="in 50 consecutive steps"):
        r.made.write({})


def test_one_good_step_begins_the_count_again(clock: list[float]) -> None:
    r = rig(clock)
    for step in range(1, 60):
        take(r, step, 1.0, nonfinite_leaf=-1.0 if step == 30 else 1.0)
        r.made.write({})
    assert r.made.count_skipped() == (58, 59)
