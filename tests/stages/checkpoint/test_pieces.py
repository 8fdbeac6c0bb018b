"""A state cut into rows: `pieces` writes it, `together` and `word_files` agree, `assemble` and `skeleton` read.

Whatever number of processes saves and loads, the bits are the same.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pure import random, tree
from pure.parallel import rows
from pure.parallel.group import Group, group_of
from pure.serial.serial import to_bytes
from stages.checkpoint import background, checkpoint, manifest, orbax, state_file
from stages.checkpoint.fingerprint import describe, fingerprint
from stages.sharded import sharded
from stages.state import TrainState
from tests.crew import Crew, crew
from tests.laws.test_stages import BY_NAME, run_steps

pytestmark = pytest.mark.processes

SIZES = (1, 2, 4)


def example(step: int) -> TrainState:
    """A state with every kind of leaf: more and fewer rows than processes, none, no axes, no tensor."""
    generator = torch.Generator().manual_seed(step)
    params = {
        "w": torch.randn(10, 3, generator=generator),
        "layers": [{"b": torch.randn(2, generator=generator).bfloat16()}, {"b": torch.zeros(0, 3)}],
        "mask": torch.rand(7, generator=generator) > 0.5,
    }
    return TrainState(
        step=torch.tensor(step, dtype=torch.int32),
        key=torch.tensor([step, 42], dtype=torch.uint32),
        params=params,
        opt_state=((torch.tensor(step), tree.map(lambda x: x.clone(), params)), None, (), {"tries": 3}),
        extra={},
        metrics={"loss": torch.tensor(torch.nan)},
    )


def cut(state: TrainState, group: Group) -> TrainState:
    """The state in rows; step, key and metrics are whole, as in a sharded stage."""
    named = {name: rows.cut(getattr(state, name), group) for name in ("params",)}
    count, moments = state.opt_state[0]
    opt_state = ((count, rows.cut(moments, group)), *state.opt_state[1:])
    return state._replace(**named, opt_state=opt_state)


def groups() -> dict[int, Group | None]:
    """The first 1, 2 and 4 processes, of those that this one is in."""
    handles = {size: dist.new_group(list(range(size))) for size in SIZES}
    rank = dist.get_rank()
    return {size: group_of("test", handle) if rank < size else None for size, handle in handles.items()}


def outcome(function: Callable[[], Any]) -> Any:
    """A function's result, or its error as (type, errno, text)."""
    try:
        return function()
    except Exception as error:
        return type(error).__name__, getattr(error, "errno", None), str(error)


def is_same(a: Any, b: Any) -> bool:
    """Structure and bits are equal, and each leaf has storage of its own."""
    return tree.structure(a) == tree.structure(b) and to_bytes(rows.local(a)) == to_bytes(rows.local(b))


def save_by_each_number(run: Path) -> list[str]:
    """Saves by 1, 2 and 4 processes, now and in the background; returns the warnings of loading them all."""
    warnings: list[str] = []
    wrong: list[str] = []
    for size, group in groups().items():
        if group is None:
            continue
        checkpoint.save(run / str(size), cut(example(1), group), metadata={"a": 1}, group=group)
        saver = background.make_saver(run / str(size), group=group, keep_last=5)
        state = cut(example(2), group)
        saver.save(state, step=2, score=0.5)
        tree.map(lambda x: rows.local([x])[0].zero_() if isinstance(x, Tensor) else x, state)
        if saver.wait() != checkpoint.latest(run / str(size)):
            wrong.append(f"{size}: {saver.wait()}")
    dist.barrier()
    for saved in (*SIZES, "one"):
        for size, group in groups().items():
            if group is None:
                continue
            target = tree.map(lambda x: torch.zeros_like(x) if isinstance(x, Tensor) else x, example(9))
            for cut_target, expected in (
                (cut(target, group), cut(example(2), group)),
                (target, example(2)),
            ):
                loaded = checkpoint.load(run / str(saved), cut_target, group=group, warn=warnings.append)
                if loaded.step != 2 or not is_same(loaded.state, expected):
                    wrong.append(f"saved by {saved}, loaded by {size}")
        dist.barrier()
    return wrong + [text for text in warnings if "processes was" not in text]


def save_twice(run: Path) -> None:
    group = group_of("test", dist.group.WORLD)
    for step in (1, 2):
        checkpoint.save(run, cut(example(step), group), group=group)


def load(run: Path) -> Any:
    """(step, damaged leaves, warnings) on a process."""
    group = group_of("test", dist.group.WORLD)
    warnings: list[str] = []
    loaded = checkpoint.load(run, cut(example(9), group), group=group, warn=warnings.append)
    same = is_same(loaded.state, cut(example(loaded.step), group))
    return loaded.step, same, [(x.file, x.leaves) for x in loaded.skipped], warnings


def load_others(run: Path) -> list[Any]:
    """Targets that do not fit, on all processes and on one."""
    group = group_of("test", dist.group.WORLD)
    state = example(2)
    other = state._replace(params=state.params | {"w": torch.zeros(10, 3, dtype=torch.float64)})
    longer = state._replace(params=state.params | {"w": torch.zeros(11, 3)})
    more = state._replace(extra={"ema": torch.zeros(3)})
    results = [
        outcome(lambda t=t: checkpoint.load(run, cut(t, group), group=group)) for t in (other, longer, more)
    ]
    mine = longer if group.rank == 2 else state
    return [*results, outcome(lambda: checkpoint.load(run, cut(mine, group), group=group))]


def fill_the_disk(run: Path) -> list[Any]:
    """Process 2 has no room, now and in the background; then it has."""
    group = group_of("test", dist.group.WORLD)
    original = state_file._write_all

    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def save(step: int) -> Any:
        return outcome(lambda: checkpoint.save(run, cut(example(step), group), group=group))

    state_file._write_all = refuse if group.rank == 2 else original
    try:
        results = [save(2)]
        saver = background.make_saver(run, group=group)
        saver.save(cut(example(3), group))
        results.append(outcome(saver.wait))
        saver.save(cut(example(3), group))
        results.append(outcome(lambda: saver.save(cut(example(4), group))))
        results.append(outcome(saver.wait))
    finally:
        state_file._write_all = original
    dist.barrier()
    names = sorted(os.listdir(run / "checkpoints"))
    dist.barrier()
    return [*results, names, save(5)]


def train_and_resume(run: Path) -> dict[str, bool]:
    """Three steps of a sharded stage; the third again from checkpoints, in both formats and of other numbers."""
    row = BY_NAME["pretrain-muon-ema"]
    plain = row.make()
    stages = {size: sharded(plain, group) for size, group in groups().items() if group is not None}
    results = {}
    for size in (2, 4):
        if size not in stages:
            continue
        group, a_stage = group_of("test", stages[size].init.args[1]), stages[size]
        state = run_steps(a_stage, [row.batch(0), row.batch(1)], a_stage.init(random.key(0)))
        for form in ("state", "dcp"):
            saver = background.make_saver(run / f"{size}-{form}", group=group, format=form)
            saver.save(state, fingerprint=fingerprint(a_stage))
            saver.wait()
        end = a_stage.step(state, row.batch(2))
        for form in ("state", "dcp"):
            target = a_stage.init(random.key(1))
            loaded = checkpoint.load(
                run / f"{size}-{form}",
                target,
                group=group,
                fingerprint=fingerprint(plain),
                warn=lambda text: None,
            )
            results[f"{size}-{form}"] = is_same(a_stage.step(loaded.state, row.batch(2)), end)
    return results


def write_elsewhere() -> list[Any]:
    """Writers of one process are given rows; a fingerprint of rows is that of the whole."""
    value = {"w": torch.arange(6.0)}
    in_rows = rows.cut(value, group_of("test", dist.group.WORLD))
    errors = [outcome(lambda: to_bytes(in_rows)), outcome(lambda: orbax.write("nowhere", in_rows))]
    return [*errors, describe(partial(max, in_rows)) == describe(partial(max, value))]


def refuse_bad_groups(run: Path) -> list[Any]:
    group = group_of("test", dist.group.WORLD)
    half = groups()[2]
    answers = [outcome(lambda: checkpoint.save(run, cut(example(1), group), step=-1))]
    if half is not None:
        answers.append(outcome(lambda: checkpoint.save(run, cut(example(1), group), group=half)))
    return answers


def test_any_number_of_processes_loads_what_any_number_saved(four: Crew, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "one", example(2))
    assert four.run(save_by_each_number, tmp_path) == [[]] * 4
    for size in SIZES:
        loaded = checkpoint.load(tmp_path / str(size), example(9), warn=lambda text: None)
        assert is_same(loaded.state, example(2))
        assert loaded.manifest.environment["processes"] == size
        assert loaded.manifest.score == 0.5
        names = [f"state-{i:05}-of-{size:05}.msgpack" for i in range(1, size + 1)]
        assert sorted(os.listdir(loaded.path)) == ["manifest.json", *names]
        without_target = checkpoint.load(tmp_path / str(size), None, warn=lambda text: None).state
        assert torch.equal(without_target["params"]["w"], example(2).params["w"])
        assert without_target["opt_state"]["3"] == {"tries": 3}
        assert checkpoint.best(tmp_path / str(size)) == loaded.path


def test_damage_of_a_piece_is_skipped_by_all_and_named(four: Crew, tmp_path: Path) -> None:
    four.run(save_twice, tmp_path)
    newest = tmp_path / "checkpoints" / "step-00000002"
    shutil.copytree(newest, tmp_path / "aside")
    record = manifest.decode((newest / "manifest.json").read_bytes())
    third = newest / "state-00003-of-00004.msgpack"
    leaf = next(x for x in record.pieces[2].leaves if x.path == "params/w")

    def check(file: str, leaf: str) -> None:
        results = four.run(load, tmp_path)
        for step, same, skipped, warnings in results:
            assert (step, same, skipped[0][0]) == (1, True, file)
            assert leaf in skipped[0][1]
            assert len(warnings) == (results[0][3] is warnings)
        assert file in results[0][3][0]
        alone = checkpoint.load(tmp_path, example(9), warn=lambda text: None)
        assert (alone.step, alone.skipped[0].file) == (1, file)
        shutil.rmtree(newest)
        shutil.copytree(tmp_path / "aside", newest)

    flip(third, leaf.spans[0][0])
    check(third.name, "params/w")
    flip(newest / "state-00001-of-00004.msgpack", 1)  # the structure
    check("state-00001-of-00004.msgpack", "step")
    os.truncate(third, third.stat().st_size - 3)
    check(third.name, "opt_state/0/1/mask")
    third.unlink()
    check(third.name, "params/w")
    shutil.copy(tmp_path / "checkpoints" / "step-00000001" / third.name, third)
    check(third.name, "params/w")


def flip(path: Path, position: int) -> None:
    """Flips a bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


def test_every_flipped_bit_of_a_small_checkpoint_in_pieces_is_detected(four: Crew, tmp_path: Path) -> None:
    four.run(save_small, tmp_path)
    newest = tmp_path / "checkpoints" / "step-00000002"
    for path in sorted(newest.glob("*.msgpack")):
        data = path.read_bytes()
        for i in range(len(data)):
            flip(path, i)
            loaded = checkpoint.load(
                tmp_path, {"n": torch.tensor(0), "w": torch.zeros(5)}, warn=lambda text: None
            )
            assert (loaded.step, loaded.skipped[0].file) == (1, path.name)
            path.write_bytes(data)


def save_small(run: Path) -> None:
    group = group_of("test", dist.group.WORLD)
    for step in (1, 2):
        checkpoint.save(run, rows.cut({"n": torch.tensor(7), "w": torch.arange(5.0)}, group), step=step)


def test_a_target_of_another_shape_or_dtype_is_refused_by_leaf_on_all(four: Crew, tmp_path: Path) -> None:
    four.run(save_twice, tmp_path)
    for dtype, shape, keys, one in four.run(load_others, tmp_path):
        for error in (dtype, shape, keys, one):
            assert error[0] == "SerialError"
        assert "params/w: expected float64[10, 3], got float32[10, 3]" in dtype[2]
        assert "params/w: expected float32[11, 3], got float32[10, 3]" in shape[2]
        assert "extra: the target has 'ema'" in keys[2]
        assert "params/w: expected float32[11, 3]" in one[2]


def test_a_full_disk_of_one_process_is_raised_on_all_and_loses_nothing(four: Crew, tmp_path: Path) -> None:
    four.run(save_twice, tmp_path)
    for *errors, last, names, saved in four.run(fill_the_disk, tmp_path):
        for error in (*errors, last):
            assert error[:2] == ("OSError", errno.ENOSPC)
            assert "make room there" in error[2]
        assert names == ["step-00000001", "step-00000002"]
        assert saved.name == "step-00000005"
    assert four.run(load, tmp_path)[3][:2] == (5, True)


def test_bad_arguments_are_refused_on_all(four: Crew, tmp_path: Path) -> None:
    answers = four.run(refuse_bad_groups, tmp_path)
    assert all("expected step >= 0" in answer[0][2] for answer in answers)
    assert all(
        "the state is cut over 4 processes, and the group that saves it has 2" in answer[1][2]
        for answer in answers[:2]
    )
    assert not (tmp_path / "checkpoints").exists()


def train_until_one_dies() -> None:
    """Steps with a collective, beside a save."""
    for _ in range(500):
        dist.barrier()
        time.sleep(0.01)


def test_a_sharded_stage_resumes_to_the_same_bits(four: Crew, tmp_path: Path) -> None:
    results = four.run(train_and_resume, tmp_path)
    assert results[0] == {"2-state": True, "2-dcp": True, "4-state": True, "4-dcp": True}
    assert results[3] == {"4-state": True, "4-dcp": True}
    plain = BY_NAME["pretrain-muon-ema"].make()
    alone, other = (
        checkpoint.load(tmp_path / f"{name}", plain.init(random.key(1)), warn=lambda text: None).state
        for name in ("2-state", "2-dcp")
    )
    assert to_bytes(alone) == to_bytes(other)
    assert alone.step == 2


def test_rows_are_refused_by_name_where_one_process_writes(four: Crew) -> None:
    for msgpack, orbax_error, same in four.run(write_elsewhere):
        assert "w: this leaf is cut into rows" in msgpack[2]
        assert "orbax.write: w: this leaf is cut into rows" in orbax_error[2]
        assert same


def die_inside_a_save(run: Path, victim: int, at_end: bool) -> None:
    """One process is killed in the middle of its piece; the other writes down what it sees, and for how long."""
    group = group_of("test", dist.group.WORLD)
    checkpoint.save(run, cut(example(1), group), group=group)
    original = state_file._write_all

    def die(descriptor: int, buffers: list[memoryview]) -> None:
        original(descriptor, [buffers[0][:10]])
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)

    if group.rank == victim:
        state_file._write_all = die
    saver = background.make_saver(run, group=group)
    saver.save(cut(example(2), group))
    begin = time.monotonic()
    if at_end:
        error = outcome(saver.wait)
    else:
        error = outcome(train_until_one_dies)
        saver.close()
    (run / "survivor.json").write_text(json.dumps([error, time.monotonic() - begin]))


@pytest.mark.parametrize(("victim", "at_end"), [(1, True), (1, False), (0, True)])
def test_kill_9_inside_a_save_loses_nothing_and_the_others_end(
    tmp_path: Path, victim: int, at_end: bool
) -> None:
    with crew(2) as two:
        with pytest.raises(AssertionError, match="it ended"):
            two.run(die_inside_a_save, tmp_path, victim, at_end)
        until = time.monotonic() + 10
        while not (tmp_path / "survivor.json").exists():
            assert time.monotonic() < until, "the other process did not end within 10 s"
            time.sleep(0.05)
        (kind, _, _), seconds = json.loads((tmp_path / "survivor.json").read_text())
        assert kind in ("RuntimeError", "DistBackendError", "DistNetworkError")
        assert seconds < 10
    left = sorted(os.listdir(tmp_path / "checkpoints"))
    assert left[0] == "step-00000001"
    assert "step-00000002" not in left
    loaded = checkpoint.load(tmp_path, example(9), warn=lambda text: None)
    assert loaded.step == 1
    assert is_same(loaded.state, example(1))
    checkpoint.save(tmp_path, example(3))
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000001", "step-00000003"]


def test_a_manifest_of_pieces_that_do_not_fit_together_is_refused(four: Crew, tmp_path: Path) -> None:
    four.run(save_small, tmp_path)
    path = tmp_path / "checkpoints" / "step-00000002" / "manifest.json"
    record = manifest.decode(path.read_bytes())
    assert manifest.encode(record) == path.read_bytes()
    assert json.loads(path.read_bytes())["format"] == 2
    one, two, *others = record.pieces
    for pieces, message in (
        ((one, *others), "do not follow one another"),
        ((one, two), "rows of 'w' are missing"),
        ((two, one, *others), "only the first piece|do not follow"),
        ((one, two._replace(file="../x"), *others), "no name of a file"),
        (
            (one, two._replace(leaves=two.leaves[:0]), *others),
            "do not cover the file|not a manifest|same leaves",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            manifest.decode(manifest.encode(record._replace(pieces=pieces)))
