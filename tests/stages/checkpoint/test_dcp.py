"""`stages.checkpoint.dcp`: torch.distributed.checkpoint reads what we write, and its silent habits are guarded."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as torch_dcp
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from pure import tree
from pure.parallel import rows
from pure.parallel.group import group_of
from pure.serial.writer import SerialError
from stages.checkpoint import background, checkpoint, dcp
from stages.state import TrainState
from tests.crew import Crew
from tests.stages.checkpoint.test_pieces import SIZES, cut, flip, groups, is_same, outcome
from tests.stages.checkpoint.test_pieces import example as any_example

pytestmark = pytest.mark.processes


def example(step: int) -> TrainState:
    """The state of the other tests, without its leaf that is no tensor."""
    state = any_example(step)
    return state._replace(opt_state=state.opt_state[:3])


def zeros() -> TrainState:
    return tree.map(torch.zeros_like, example(9))


def save_by_each_number(run: Path) -> list[str]:
    """Saves by 1, 2 and 4 processes, in rows and whole; loads each by 1, 2 and 4."""
    texts: list[str] = []
    wrong: list[str] = []
    all_groups = groups()
    for size, group in all_groups.items():
        if group is None:
            continue
        checkpoint.save(run / str(size), cut(example(1), group), group=group, format="dcp")
        saver = background.make_saver(run / str(size), group=group, format="dcp", fingerprint={"lr": "1"})
        state = cut(example(2), group)
        saver.save(state, step=2)
        tree.map(lambda x: rows.local([x])[0].zero_(), state)
        if saver.wait() != checkpoint.latest(run / str(size)):
            wrong.append(f"{size}: {saver.wait()}")
        checkpoint.save(run / f"whole-{size}", example(2), group=group, format="dcp")
    dist.barrier()
    for name in (*SIZES, *(f"whole-{size}" for size in SIZES)):
        for size, group in all_groups.items():
            if group is None:
                continue
            for target, expected in ((cut(zeros(), group), cut(example(2), group)), (zeros(), example(2))):
                loaded = checkpoint.load(run / str(name), target, group=group, warn=texts.append)
                if loaded.step != 2 or not is_same(loaded.state, expected):
                    wrong.append(f"saved by {name}, loaded by {size}")
                if any(bool(x.any()) for x in tree.leaves(rows.local(target)) if x.numel()):
                    wrong.append(f"saved by {name}, loaded by {size}: the target was overwritten")
        dist.barrier()
    return wrong + [text for text in texts if "processes was" not in text]


def save_twice(run: Path) -> None:
    group = group_of("test", dist.group.WORLD)
    for step in (1, 2):
        checkpoint.save(run, cut(example(step), group), group=group, format="dcp")


def load(run: Path) -> Any:
    group = group_of("test", dist.group.WORLD)
    texts: list[str] = []
    loaded = checkpoint.load(run, cut(zeros(), group), group=group, warn=texts.append)
    same = is_same(loaded.state, cut(example(loaded.step), group))
    return loaded.step, same, [x.file for x in loaded.skipped], len(texts)


def fail_on_one(run: Path) -> list[Any]:
    """Process 2 has no room."""
    group = group_of("test", dist.group.WORLD)
    original = torch_dcp.FileSystemWriter.write_data

    def refuse(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    torch_dcp.FileSystemWriter.write_data = refuse if group.rank == 2 else original
    try:
        return [
            outcome(
                lambda: checkpoint.save(run, cut(example(3), group), group=group, format="dcp"),
            )
        ]
    finally:
        torch_dcp.FileSystemWriter.write_data = original


def read_by_torch(folder: Path) -> bool:
    """`torch.distributed.checkpoint.load` on all processes, with its own collectives."""
    group = group_of("test", dist.group.WORLD)
    empty = cut(zeros(), group)
    state = {"params": {"w": empty.params["w"], "mask": empty.params["mask"]}, "key": empty.key}
    torch_dcp.load(state, checkpoint_id=folder)
    expected = cut(example(2), group)
    return is_same(
        state, {"params": {name: expected.params[name] for name in ("w", "mask")}, "key": expected.key}
    )


def test_any_number_of_processes_loads_what_any_number_saved(four: Crew, tmp_path: Path) -> None:
    assert four.run(save_by_each_number, tmp_path) == [[]] * 4
    loaded = checkpoint.load(tmp_path / "4", zeros(), fingerprint={"lr": "1"}, warn=lambda text: None)
    assert is_same(loaded.state, example(2))
    files = [".metadata", *(f"__{rank}_0.distcp" for rank in range(4)), "manifest.json"]
    assert sorted(os.listdir(loaded.path)) == files
    # torch reads it, together and as one file.
    assert four.run(read_by_torch, loaded.path) == [True] * 4
    dcp_to_torch_save(loaded.path, tmp_path / "one.pt")
    theirs = torch.load(tmp_path / "one.pt", weights_only=False)
    assert torch.equal(theirs["params"]["layers"]["0"]["b"], example(2).params["layers"][0]["b"])
    assert theirs["step"] == 2
    ours = checkpoint.load(tmp_path / "4", None, warn=lambda text: None).state
    assert torch.equal(ours["params"]["w"], example(2).params["w"])


def test_damage_that_torch_loads_is_found_and_skipped_by_all(four: Crew, tmp_path: Path) -> None:
    four.run(save_twice, tmp_path)
    newest = tmp_path / "checkpoints" / "step-00000002"
    shutil.copytree(newest, tmp_path / "aside")
    third = newest / "__2_0.distcp"

    def check(file: str) -> None:
        results = four.run(load, tmp_path)
        assert [result[:3] for result in results] == [(1, True, [file])] * 4
        assert [result[3] for result in results] == [1, 0, 0, 0]
        alone = checkpoint.load(tmp_path, zeros(), warn=lambda text: None)
        assert (alone.step, alone.skipped[0].file) == (1, file)
        shutil.rmtree(newest)
        shutil.copytree(tmp_path / "aside", newest)

    data = third.read_bytes()
    numbers = rows_of_w().numpy().tobytes()
    flip(third, data.index(numbers) + 1)
    read = {"params": {"w": torch.zeros(10, 3)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_dcp.load(read, checkpoint_id=newest)
    assert not torch.equal(read["params"]["w"], example(2).params["w"])  # torch says nothing
    check(third.name)
    os.truncate(third, third.stat().st_size - 1)
    check(third.name)
    third.unlink()
    check(third.name)
    shutil.copy(tmp_path / "checkpoints" / "step-00000001" / third.name, third)
    check(third.name)
    flip(newest / ".metadata", 40)
    check(".metadata")
    assert four.run(load, tmp_path) == [(2, True, [], 0)] * 4


def rows_of_w() -> Tensor:
    """Rows of process 2 of four."""
    return example(2).params["w"][6:9]


def test_a_target_of_another_dtype_is_refused_where_torch_casts(four: Crew, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, example(2), format="dcp")
    state = zeros()
    narrow = state._replace(params=state.params | {"w": torch.zeros(10, 3, dtype=torch.bfloat16)})
    longer = state._replace(params=state.params | {"w": torch.zeros(11, 3)})
    for target, message in (
        (narrow, r"params.w: expected bfloat16\[10, 3\], got float32\[10, 3\]"),
        (longer, r"params.w: expected float32\[11, 3\], got float32\[10, 3\]"),
        (state._replace(extra={"ema": torch.zeros(1)}), r"extra.ema: the target has it, the data lacks it"),
        (state._replace(metrics={}), r"metrics.loss: the data has it, the target lacks it"),
        (state._replace(extra=3), r"extra: the target has it"),
    ):
        with pytest.raises(SerialError, match=message):
            checkpoint.load(tmp_path, target)
    part = checkpoint.load(tmp_path, {"key": state.key}, subset=True).state
    assert torch.equal(part["key"], example(2).key)


def test_bad_input_and_errors_are_raised_on_all(four: Crew, tmp_path: Path) -> None:
    four.run(save_twice, tmp_path)
    for (error,) in four.run(fail_on_one, tmp_path):
        assert error[:2] == ("OSError", errno.ENOSPC)
    assert four.run(load, tmp_path) == [(2, True, [], 0)] * 4
    with pytest.raises(
        ValueError, match=r"opt_state\.3\.tries: --checkpoint_format dcp holds tensors only, got int"
    ):
        checkpoint.save(tmp_path, any_example(3), format="dcp")
    with pytest.raises(ValueError, match="two leaves have one name"):
        checkpoint.save(tmp_path, {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, step=3, format="dcp")
    with pytest.raises(ValueError, match="expected the format 'state' or 'dcp', got 'zip'"):
        checkpoint.save(tmp_path, example(3), format="zip")  # type: ignore[arg-type]


def test_a_folder_of_torch_without_a_manifest_is_refused_in_one_line(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_dcp.save({"w": torch.ones(3)}, checkpoint_id=tmp_path / "theirs")
    with pytest.raises(
        ValueError, match=r"theirs: .*torch.distributed.checkpoint without manifest.json"
    ) as error:
        checkpoint.load(tmp_path / "theirs", {"w": torch.zeros(3)})
    assert "\n" not in str(error.value)


def test_metadata_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Bad()))
    with pytest.raises(ValueError, match=r"\.metadata: not what torch writes \(it names posix.mkdir"):
        dcp.read_metadata(tmp_path)
    assert not (tmp_path / "made").exists()
    (tmp_path / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"\.metadata: not what torch writes \(dict\)"):
        dcp.read_metadata(tmp_path)


def save_large(run: Path, in_background: bool) -> None:
    """Saves a state of 320 KB; in the background two, as a run does, which ends with the error of the first."""
    large = {"w": torch.ones(100, 100), "v": torch.ones(70_000)}
    if not in_background:
        checkpoint.save(run, large, step=2, format="dcp")
        return
    saver = background.make_saver(run, format="dcp")
    saver.save(large, step=2)
    try:
        saver.save(large, step=3)
    finally:
        saver.close()


@pytest.mark.parametrize("in_background", [False, True])
def test_a_full_disk_is_reported_with_the_fix(in_background: bool, tmp_path: Path) -> None:
    """A real refusal of the system: a limit on the size of files; torch's error does not say it."""
    checkpoint.save(tmp_path, example(1), format="dcp")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(
            OSError, match=r"could not save .*step-00000002: File too large; make room there, and save"
        ) as raised:
            save_large(tmp_path, in_background)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert raised.value.errno == errno.EFBIG
    assert "\n" not in str(raised.value)
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000001"]
    assert checkpoint.load(tmp_path, zeros()).step == 1
