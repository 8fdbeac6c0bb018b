"""`stages.checkpoint.checkpoint`, `loading`, `saving`: saves are atomic, loads verified, and no save is lost."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
import pytest
import torch

from pure import tree
from pure.serial.serial import SerialError, to_bytes
from stages.checkpoint import checkpoint, state_file
from stages.checkpoint.checkpoint import best, latest, list_saved, load, save, step_of
from stages.checkpoint.fingerprint import NAMES, NAMES_VERSION
from stages.state import TrainState

ROOT = Path(__file__).parents[3]
_SPEC = importlib.util.spec_from_file_location(
    "corrupt_checkpoint", ROOT / "benchmarks" / "corrupt_checkpoint.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
corrupt_checkpoint = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(corrupt_checkpoint)


def example(step: int, width: int = 4) -> TrainState:
    """A state whose every number depends on the step."""
    params = {
        "layers": [{"w": torch.full((3, width), step + 0.5)}, {"w": torch.full((3, width), step + 0.25)}]
    }
    return TrainState(
        step=torch.tensor(step, dtype=torch.int32),
        key=torch.tensor([step, 42], dtype=torch.uint32),
        params=params,
        opt_state=(
            (torch.tensor(step, dtype=torch.int32), tree.map(lambda x: x.bfloat16(), params)),
            None,
            (),
        ),
        extra={},
        metrics={"loss": torch.tensor(torch.nan)},
    )


def is_same(a: Any, b: Any) -> bool:
    return tree.structure(a) == tree.structure(b) and to_bytes(a) == to_bytes(b)


def saved_steps(run: Path) -> list[int]:
    return [step_of(path) for path in list_saved(run)]


def fail_on_warning(message: str) -> None:
    raise AssertionError(message)


# --- the contents of a checkpoint


def test_a_state_is_restored_bit_for_bit_with_its_metadata(tmp_path: Path) -> None:
    path = save(
        tmp_path / "new" / "run", example(7), score=0.5, metadata={"a": [1]}, fingerprint={"lr": "0.1"}
    )
    assert path == tmp_path / "new" / "run" / "checkpoints" / "step-00000007"
    assert sorted(os.listdir(path)) == ["manifest.json", "state.msgpack"]
    found = load(
        tmp_path / "new" / "run", tree.zeros_like(example(0)), fingerprint={"lr": "0.1"}, warn=fail_on_warning
    )
    assert is_same(found.state, example(7))
    assert (found.step, found.path, found.skipped) == (7, path, ())
    assert (found.manifest.score, found.manifest.metadata) == (0.5, {"a": [1]})


def test_checkpoint_files_can_be_checked_and_read_by_other_libraries(tmp_path: Path) -> None:
    path = save(tmp_path, example(7))
    data = (path / "state.msgpack").read_bytes()
    recorded = json.loads((path / "manifest.json").read_text())
    assert recorded["files"]["state.msgpack"]["bytes"] == len(data)
    leaf = next(leaf for leaf in recorded["leaves"] if leaf["path"] == "params/layers/0/w")
    assert leaf["sha256"] == hashlib.sha256(example(7).params["layers"][0]["w"].numpy().tobytes()).hexdigest()
    assert (leaf["shape"], leaf["dtype"], leaf["bytes"]) == ([3, 4], "float32", 48)
    assert data == to_bytes(example(7))
    theirs = flax.serialization.msgpack_restore(data)
    assert np.array_equal(theirs["params"]["layers"]["1"]["w"], np.full((3, 4), 7.25, np.float32))


def test_a_tree_without_a_step_is_saved_if_the_step_is_given(tmp_path: Path) -> None:
    save(tmp_path, [torch.ones(2)], step=3)
    assert load(tmp_path, [torch.zeros(2)], warn=fail_on_warning).state[0].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"expected one state.step, got 0; pass step=..."):
        save(tmp_path, [torch.ones(2)])


def test_stacked_states_are_saved_if_their_steps_are_equal(tmp_path: Path) -> None:
    stacked = tree.stack([example(5), example(5)])
    assert step_of(save(tmp_path, stacked)) == 5
    assert is_same(load(tmp_path, tree.zeros_like(stacked), warn=fail_on_warning).state, stacked)
    with pytest.raises(ValueError, match="got 2"):
        save(tmp_path, tree.stack([example(5), example(6)]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"step": -1}, ValueError, "step >= 0"),
        ({"keep_last": 0}, ValueError, "keep_last >= 1"),
        ({"metadata": {"x": torch.ones(1)}}, TypeError, "metadata must be JSON"),
        ({"state": {"w": object()}, "step": 1}, SerialError, "w: expected a tensor"),
    ],
)
def test_bad_arguments_are_refused_and_leave_no_files(
    tmp_path: Path, options: dict, error: type, message: str
) -> None:
    save(tmp_path, example(1))
    with pytest.raises(error, match=message):
        save(tmp_path, **{"state": example(2), **options})
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000001"]


# --- keep_last and keep_best


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    scores = {1: 3.0, 2: 1.0, 3: float("nan"), 4: 2.0, 5: None, 6: 4.0}
    for step, score in scores.items():
        save(tmp_path, example(step), score=score, keep_last=2, keep_best=2)
    assert saved_steps(tmp_path) == [2, 4, 5, 6]
    assert best(tmp_path) == tmp_path / "checkpoints" / "step-00000002"
    assert latest(tmp_path) == tmp_path / "checkpoints" / "step-00000006"
    save(tmp_path, example(7), keep_last=1)
    assert saved_steps(tmp_path) == [7]
    assert best(tmp_path) is None


def test_all_checkpoints_are_kept_by_default(tmp_path: Path) -> None:
    for step in range(4):
        save(tmp_path, example(step), keep_best=1)
    assert saved_steps(tmp_path) == [0, 1, 2, 3]


def test_a_checkpoint_just_saved_is_kept_even_if_others_have_later_steps(tmp_path: Path) -> None:
    for step in (8, 9, 3):
        save(tmp_path, example(step), keep_last=1)
    assert saved_steps(tmp_path) == [3, 9]


def test_a_checkpoint_that_cannot_be_deleted_is_reported_and_the_save_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, example(1))
    rename = os.rename

    def refuse(old: Path, new: Path) -> None:
        if str(new).endswith(".del"):
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse)
    warnings: list[str] = []
    save(tmp_path, example(2), keep_last=1, warn=warnings.append)
    assert len(warnings) == 1
    assert "could not delete older ones: Permission denied" in warnings[0]
    assert saved_steps(tmp_path) == [1, 2]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, example(1), metadata={"take": 1})
    save(tmp_path, example(1)._replace(extra={"x": torch.ones(1)}), metadata={"take": 2})
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000001"]
    assert load(
        tmp_path, example(1)._replace(extra={"x": torch.zeros(1)}), warn=fail_on_warning
    ).manifest.metadata == {"take": 2}


# --- load


def test_load_takes_the_newest_checkpoint_or_the_given_step(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, example(step))
    target = tree.zeros_like(example(0))
    assert load(tmp_path, target, warn=fail_on_warning).step == 3
    assert is_same(load(tmp_path, target, step=2, warn=fail_on_warning).state, example(2))
    assert is_same(
        load(tmp_path / "checkpoints" / "step-00000001", target, warn=fail_on_warning).state, example(1)
    )
    shutil.copytree(tmp_path / "checkpoints" / "step-00000001", tmp_path / "copy")
    assert is_same(load(tmp_path / "copy", target, warn=fail_on_warning).state, example(1))
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 9 in"):
        load(tmp_path, target, step=9)


def test_a_folder_without_checkpoints_is_an_error_for_load_only(tmp_path: Path) -> None:
    for run in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="no checkpoint in"):
            load(run, example(0))
        assert latest(run) is best(run) is None
        assert list_saved(run) == []


def test_a_target_that_does_not_fit_the_newest_checkpoint_is_refused_by_leaf(tmp_path: Path) -> None:
    save(tmp_path, example(1))
    save(tmp_path, example(2))
    with pytest.raises(
        SerialError, match=r"step-00000002 does not fit .* params/layers/0/w: .* float32\[3, 5\], got .*4\]"
    ):
        load(tmp_path, example(0, width=5))
    with pytest.raises(SerialError, match="root: the data has 'step', 'key'"):
        load(tmp_path, {})
    with pytest.raises(SerialError, match="extra: the target has 'ema', which the data lacks"):
        load(tmp_path, example(0)._replace(extra={"ema": torch.zeros(1)}))


def test_a_part_of_a_state_can_be_loaded(tmp_path: Path) -> None:
    save(tmp_path, example(4)._asdict(), step=4)
    found = load(tmp_path, {"params": tree.zeros_like(example(0).params)}, subset=True, warn=fail_on_warning)
    assert is_same(found.state["params"], example(4).params)


def test_a_run_with_other_settings_is_refused_by_their_names(tmp_path: Path) -> None:
    was = {
        "optimizer.learning_rate": "0.001",
        "pipe.store": "x",
        "gone": "1",
        "step.optimizer.learning_rate": "0.001",
    }
    now = {
        "optimizer.learning_rate": "0.01",
        "pipe.store": "x",
        "ema": "0.9",
        "step.optimizer.learning_rate": "0.01",
    }
    save(tmp_path, example(1), fingerprint=was)
    load(tmp_path, example(0), fingerprint=was, warn=fail_on_warning)
    load(tmp_path, example(0), warn=fail_on_warning)
    with pytest.raises(ValueError, match="saved by another run") as error:
        load(tmp_path, example(0), fingerprint=now)
    assert "optimizer.learning_rate was 0.001, is 0.01" in str(error.value)
    assert "gone was 1, is not there" in str(error.value)
    assert "ema was not there, is 0.9" in str(error.value)
    assert "pipe.store" not in str(error.value)
    assert "step.optimizer.learning_rate" not in str(error.value)
    save(tmp_path, example(2))
    with pytest.raises(ValueError, match=r"has no fingerprint.*fingerprint=None"):
        load(tmp_path, example(0), fingerprint=now)


def test_a_run_with_other_names_of_functions_is_refused_in_one_line(tmp_path: Path) -> None:
    """A manifest of an earlier version names no version of its names; only its state can be loaded."""
    earlier = {"": "stages.dpo.step", "loss": "pure.loss.dpo.dpo", "optimizer.learning_rate": "0.001"}
    now = {NAMES: NAMES_VERSION, "": "stages.dpo.update", "loss": "pure.loss.dpo.dpo_loss"}
    save(tmp_path, example(1), fingerprint=earlier)
    with pytest.raises(ValueError, match="Nothing in it is lost: that version finishes the run") as error:
        load(tmp_path, example(0), fingerprint=now)
    assert "\n" not in str(error.value)
    assert "stages.dpo" not in str(error.value)
    state = load(tmp_path, example(0), warn=fail_on_warning).state
    assert torch.equal(state.params["layers"][0]["w"], example(1).params["layers"][0]["w"])
    save(tmp_path, example(2), fingerprint=now)
    assert load(tmp_path, example(0), fingerprint=now, warn=fail_on_warning).step == 2


def test_a_change_of_machine_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, example(1))
    there = checkpoint.manifest.environment() | {"threads": 99, "python": "2.7"}
    monkeypatch.setattr(checkpoint.manifest, "environment", lambda: there)
    warnings: list[str] = []
    assert load(tmp_path, example(0), warn=warnings.append).step == 1
    change = f"threads was {torch.get_num_threads()}, is 99; the run may not resume bit for bit"
    assert warnings == [f"checkpoint.load: step-00000001: {change}"]
    with pytest.warns(UserWarning, match="threads was"):
        load(tmp_path, example(0))


# --- damaged files


@pytest.fixture(scope="module")
def damaged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    corrupt_checkpoint.make_run(run)
    return run


@pytest.mark.parametrize("kind", corrupt_checkpoint.KINDS)
def test_damage_is_detected_and_named_and_the_older_checkpoint_loads(kind: str, damaged_run: Path) -> None:
    for i in range(17):  # of each of twelve kinds
        assert corrupt_checkpoint.run_trial(damaged_run, kind, random.Random(f"suite {i}")) == [
            "detected",
            "named",
            "loaded",
        ]


def test_each_flipped_bit_of_a_small_checkpoint_is_detected(tmp_path: Path) -> None:
    value = {"w": torch.ones(2)}
    save(tmp_path, value, step=1)
    path = save(tmp_path, value, step=2) / "state.msgpack"
    data = path.read_bytes()
    for i in range(8 * len(data)):
        bad = bytearray(data)
        bad[i // 8] ^= 1 << i % 8
        path.write_bytes(bad)
        found = load(tmp_path, value, warn=lambda text: None)
        assert (found.step, found.skipped[0].leaves) == (1, ("w",))


def test_if_all_checkpoints_are_damaged_each_is_reported(tmp_path: Path) -> None:
    for step in (1, 2):
        os.truncate(save(tmp_path, example(step)) / "state.msgpack", 100)
    warnings: list[str] = []
    with pytest.raises(
        ValueError, match=r"no undamaged checkpoint: .*step-00000002.*cut off.*step-00000001.*cut off"
    ):
        load(tmp_path, example(0), warn=warnings.append)
    assert len(warnings) == 2
    with pytest.warns(UserWarning, match="skipped a damaged checkpoint"), pytest.raises(ValueError):
        load(tmp_path, example(0), step=2)


def test_a_read_error_counts_as_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, example(1))
    save(tmp_path, example(2))
    original = state_file.read

    def read(path: Path, *args: Any, **options: Any) -> Any:
        if "step-00000002" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return original(path, *args, **options)

    monkeypatch.setattr(state_file, "read", read)
    warnings: list[str] = []
    found = load(tmp_path, example(0), warn=warnings.append)
    assert found.step == 1
    assert found.skipped[0].file == "state.msgpack"
    assert "Input/output error" in warnings[0]


def test_a_checkpoint_set_aside_before_a_rename_is_still_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, example(1))
    path.rename(path.with_name("step-00000001.old0"))
    found = load(tmp_path, example(0), warn=fail_on_warning)
    assert is_same(found.state, example(1))
    save(tmp_path, example(1))
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000001"]


# --- failing system calls

CALLS = (
    "open",
    "write",
    "writev",
    "fsync",
    "close",
    "mkdir",
    "rename",
    "listdir",
    "unlink",
    "rmdir",
    "lseek",
    "stat",
)


class Killed(BaseException):
    """Stands for a killed process: every later call fails too, cleaning up included."""


@contextmanager
def failing(
    name: str, number: int, error: Callable[[], BaseException], all_later: bool
) -> Iterator[list[str]]:
    """Makes call number `number` of `os.name` fail, and with `all_later` every later call in CALLS too.

    Yields a list that is empty until a call has failed."""
    originals = {call: getattr(os, call) for call in CALLS}
    calls: list[str] = []
    failed: list[str] = []
    test_thread = threading.get_ident()

    def wrap(call: str) -> Callable:
        def wrapped(*args: Any, **options: Any) -> Any:
            if threading.get_ident() != test_thread:
                return originals[call](*args, **options)
            calls.append(call)
            if (failed and all_later) or (call == name and calls.count(name) == number and not failed):
                failed.append(call)
                raise error()
            return originals[call](*args, **options)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for call in CALLS:
            patch.setattr(os, call, wrap(call))
        yield failed


FAULTS: dict[str, tuple[Callable[[], BaseException], bool]] = {  # name: (error, whether all later calls fail)
    "ENOSPC": (lambda: OSError(errno.ENOSPC, "No space left on device"), False),
    "EIO without end": (lambda: OSError(errno.EIO, "Input/output error"), True),
    "killed": (Killed, True),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("same_step", [False, True], ids=["a new step", "the same step"])
def test_after_any_failing_call_the_old_or_the_new_checkpoint_loads(
    fault: str, same_step: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and without effect here
    error, all_later = FAULTS[fault]
    failures = 0
    for name in CALLS:
        for number in range(1, 100):
            run = tmp_path / f"{name} {number}"
            save(run, example(2))
            new = example(2 if same_step else 3)._replace(key=torch.tensor([9, 9], dtype=torch.uint32))
            raised = None
            with failing(name, number, error, all_later) as failed:
                try:
                    save(run, new, keep_last=1, warn=lambda text: None)
                except (OSError, Killed) as problem:
                    raised = problem
            if not failed:
                break
            failures += 1
            found = load(run, tree.zeros_like(example(0)), warn=fail_on_warning)
            assert is_same(found.state, new) or (is_same(found.state, example(2)) and raised is not None)
            if isinstance(raised, OSError):
                assert "What was saved before is untouched" in str(raised)
                assert raised.errno in (errno.ENOSPC, errno.EIO)
            save(run, example(4), keep_last=1)  # the next save succeeds and removes leftovers
            assert os.listdir(run / "checkpoints") == ["step-00000004"]
            shutil.rmtree(run)
    assert failures > 20


def test_a_full_disk_is_reported_with_the_fix(tmp_path: Path) -> None:
    """A real refusal of the system: a limit on the size of files."""
    save(tmp_path, example(1))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(
            OSError, match=r"could not save .*step-00000002: File too large; make room there, and save"
        ):
            save(tmp_path, example(2, width=5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000001"]
    assert load(tmp_path, example(0), warn=fail_on_warning).step == 1


def test_a_save_into_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="make the folder writable, or choose another"):
        save(tmp_path / "file", example(1))

    def refuse(*args: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(
        PermissionError, match=r"could not save .*: Permission denied; make the folder writable"
    ):
        save(tmp_path / "run", example(1))


def test_files_and_folders_are_flushed_before_the_final_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(descriptor: int) -> None:
        calls.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def note_rename(old: Path, new: Path) -> None:
        calls.append(f"rename {Path(old).name} {Path(new).name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    save(tmp_path / "run", example(1))
    assert calls == [
        f"fsync {tmp_path.name}",
        "fsync run",
        "fsync state.msgpack",
        "fsync manifest.json",
        "fsync step-00000001.tmp",
        "rename step-00000001.tmp step-00000001",
        "fsync checkpoints",
    ]


@pytest.mark.parametrize("flags", [[], ["--background"]], ids=["in the foreground", "in the background"])
def test_kill_9_at_random_moments_loses_no_checkpoint(flags: list[str]) -> None:
    program = [sys.executable, str(ROOT / "benchmarks" / "kill_checkpoint.py"), "--kills", "20", *flags]
    done = subprocess.run(
        program, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills 20, " in done.stdout
    assert done.stdout.endswith("lost 0\n")
