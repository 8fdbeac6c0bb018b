"""Checkpoints of a state that all processes hold: the first writes, all agree on what is loaded and what failed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pure.parallel.group import Group, group_of
from stages.checkpoint import background, checkpoint
from stages.checkpoint.agreement import agree
from stages.checkpoint.damage import Damage
from tests.crew import Crew

pytestmark = pytest.mark.processes


def state(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((1000,), float(value)), "n": torch.tensor(value)}


def group() -> Group:
    return group_of("test", dist.group.WORLD)


def outcome(function: Callable[[], Any]) -> Any:
    """A function's result, or its error as (type, errno, text)."""
    try:
        return function()
    except Exception as error:
        return type(error).__name__, getattr(error, "errno", None), str(error)


def save_and_load(run: Path) -> dict[str, Any]:
    path = checkpoint.save(run, state(1.0), step=1, group=dist.group.WORLD)
    saver = background.make_saver(run, group=dist.group.WORLD, keep_last=3)
    value = state(2.0)
    saver.save(value, step=2)
    value["w"].fill_(9.0)
    newest = saver.wait()
    warnings: list[str] = []
    loaded = checkpoint.load(run, state(0.0), group=dist.group.WORLD, warn=warnings.append)
    same = torch.equal(loaded.state["w"], state(2.0)["w"])
    return {
        "paths": (path, newest, saver.wait()),
        "step": (loaded.step, same),
        "warnings": warnings,
        "processes": loaded.manifest.environment["processes"],
    }


def load_damaged(run: Path) -> tuple[list[str], Any]:
    warnings: list[str] = []
    loaded = checkpoint.load(run, state(0.0), group=group(), warn=warnings.append)
    return warnings, (loaded.step, [(x.path.name, x.leaves) for x in loaded.skipped])


def see_damage_alone(run: Path) -> Any:
    """Damage that only the second process reads, as from a cache of its machine."""
    original = checkpoint.load_one

    def load_one(path: Path, *args: Any) -> Any:
        if dist.get_rank() == 1 and path.name == "step-00000002":
            return Damage("state.msgpack", ("w",), "made by the test")
        return original(path, *args)

    checkpoint.load_one = load_one
    try:
        return checkpoint.load(run, state(0.0), group=group(), warn=lambda text: None).step
    finally:
        checkpoint.load_one = original


def fail(run: Path) -> list[Any]:
    """Errors of the first process alone, in the foreground and in the background; then of the target."""
    os.makedirs(run, exist_ok=True)
    blocked = run / "file"
    blocked.touch()
    results = [outcome(lambda: checkpoint.save(blocked, state(1.0), step=1, group=group()))]
    saver = background.make_saver(blocked, group=group())
    saver.save(state(1.0), step=1)
    results.append(outcome(lambda: saver.save(state(2.0), step=2)))
    results.append(outcome(saver.wait))
    results.append(outcome(saver.wait))
    results.append(outcome(lambda: checkpoint.load(run, {"w": torch.zeros(3)}, group=group())))
    target = {"w": torch.zeros(3 if dist.get_rank() else 1000), "n": torch.tensor(0.0)}
    checkpoint.save(run, state(1.0), step=1, group=group())
    results.append(outcome(lambda: checkpoint.load(run, target, group=group())))
    return results


def load_unshared(run: Path) -> Any:
    """The second process stands in another folder, as one on another machine would."""
    before = os.getcwd()
    os.chdir(run if dist.get_rank() == 0 else run.parent)
    try:
        return outcome(lambda: checkpoint.load("here", state(0.0), group=group()))
    finally:
        os.chdir(before)


def test_the_first_process_writes_the_bytes_of_one_process_and_all_load_them(
    two: Crew, tmp_path: Path
) -> None:
    results = two.run(save_and_load, tmp_path / "two")
    newest = tmp_path / "two" / "checkpoints" / "step-00000002"
    for result in results:
        assert result["paths"] == (newest.with_name("step-00000001"), newest, newest)
        assert result["step"] == (2, True)
        assert result["warnings"] == []
        assert result["processes"] == 2
    alone = checkpoint.save(tmp_path / "one", state(2.0), step=2)
    assert (alone / "state.msgpack").read_bytes() == (newest / "state.msgpack").read_bytes()
    assert sorted(os.listdir(newest)) == ["manifest.json", "state.msgpack"]
    warnings: list[str] = []
    checkpoint.load(tmp_path / "two", state(0.0), warn=warnings.append)
    assert warnings == [
        "checkpoint.load: step-00000002: the number of processes was 2, is 1; the run may not resume bit for bit"
    ]


def test_damage_is_skipped_by_all_with_one_warning(two: Crew, tmp_path: Path) -> None:
    two.run(save_and_load, tmp_path)
    assert two.run(see_damage_alone, tmp_path) == [1, 1]
    file = tmp_path / "checkpoints" / "step-00000002" / "state.msgpack"
    data = bytearray(file.read_bytes())
    data[200] ^= 4
    file.write_bytes(data)
    first, second = two.run(load_damaged, tmp_path)
    assert first[1] == second[1] == (1, [("step-00000002", ("w",))])
    assert len(first[0]) == 1
    assert second[0] == []
    assert "state.msgpack" in first[0][0]
    assert "leaves w" in first[0][0]


def test_an_error_of_one_is_raised_on_all(two: Crew, tmp_path: Path) -> None:
    for results in zip(*two.run(fail, tmp_path / "run"), strict=True):
        assert results[0] == results[1] or "w: expected float32[3]" in results[1][2]
    saved, background_save, waited, nothing, missing, unfit = two.run(fail, tmp_path / "again")[0]
    for error in (saved, background_save, waited):
        assert error[0] == "FileExistsError"
        assert "could not save" in error[2]
    assert nothing is None
    assert missing[0] == "FileNotFoundError"
    assert unfit[0] == "SerialError"


def save_different(run: Path) -> list[Any]:
    """States that differ on the processes: in a bit, in their keys, in a number; in both formats."""
    rank = dist.get_rank()
    states = (
        state(1.0) | {"w": torch.full((1000,), 1.0 + rank)},
        state(1.0) | ({"x": torch.ones(1)} if rank else {}),
        state(1.0) | {"count": rank},
    )
    results = []
    for value in states:
        for form in ("state", "dcp"):
            results.append(
                outcome(lambda v=value, f=form: checkpoint.save(run, v, step=1, group=group(), format=f))
            )
    saver = background.make_saver(run, group=group())
    results.append(outcome(lambda: saver.save(states[0], step=1)))
    return [*results, outcome(saver.wait), run.exists()]


def test_states_that_differ_between_processes_are_refused_on_all(two: Crew, tmp_path: Path) -> None:
    first, second = two.run(save_different, tmp_path / "run")
    assert first == second
    for error, name in zip(
        first, ["w", "w", "the structure", "the structure", "count", "count", "w"], strict=False
    ):
        assert error[0] == "ValueError"
        assert f"checkpoint.save: {name} is another one on process 1 than on process 0" in error[2]
    assert first[-2:] == [None, False]


def test_a_folder_that_is_not_shared_is_refused_on_all(two: Crew, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "here", state(1.0), step=1)
    for kind, _, text in two.run(load_unshared, tmp_path):
        assert kind == "ValueError"
        assert text.startswith("checkpoint.load: process 1 does not see here/checkpoints/step-00000001")


def test_alone_errors_are_raised_and_values_returned() -> None:
    assert agree(None, None, "x") == ["x"]
    with pytest.raises(KeyError):
        agree(Group(0, 1, None), KeyError("a"))
