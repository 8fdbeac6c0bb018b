"""`stages.checkpoint.state_file` writes the bytes of `to_bytes`, and its records find damage in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pure import tree
from pure.serial.serial import SerialError, to_bytes
from pure.serial.writer import pieces
from stages.checkpoint import state_file
from stages.checkpoint.damage import find_damage
from stages.checkpoint.records import Piece
from stages.checkpoint.state_file import read, run_in_thread, write


def example() -> Any:
    return {
        "large": torch.arange(1000.0).reshape(10, 100),
        "strided": torch.arange(60).reshape(6, 10).T,
        "empty": [torch.zeros(0, 3), torch.zeros(())],
        "nothing": None,
        "number": 7,
        "tail": {},
    }


@pytest.mark.parametrize("block", [1, 64, 1 << 23])
def test_the_file_equals_to_bytes_and_records_locate_each_leaf(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_file, "_BLOCK", block)
    monkeypatch.setattr(state_file, "_EARLY", 100)
    written = write(tmp_path / "state", example())
    data = (tmp_path / "state").read_bytes()
    assert data == to_bytes(example())
    assert written.bytes == len(data)
    assert [leaf.path for leaf in written.leaves] == ["large", "strided", "empty/0", "empty/1", "number", ""]
    for leaf in written.leaves:
        contents = b"".join(data[start : start + length] for start, length in leaf.spans)
        assert leaf.sha256 == hashlib.sha256(contents).hexdigest()
        assert leaf.bytes == len(contents)
    large, spans = example()["large"], written.leaves[0].spans
    assert len(spans) == 1
    assert data[spans[0][0] :][: spans[0][1]] == large.numpy().tobytes()
    back, damaged = read(tmp_path / "state", example(), written.leaves, len(data))
    assert damaged == ()
    assert to_bytes(back) == data


def test_equal_leaves_have_equal_digests_at_any_position(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"a": torch.zeros(9), "w": torch.arange(5)})
    two = write(tmp_path / "two", {"w": torch.arange(5), "b": torch.zeros(2)})
    assert one.leaves[1].sha256 == two.leaves[0].sha256


def test_each_chunk_of_a_leaf_has_a_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_file, "pieces", partial(pieces, chunk_bytes=16))
    value = {"w": torch.arange(9, dtype=torch.int32)}
    leaves = write(tmp_path / "state", value).leaves
    leaf = leaves[0]
    assert [length for _, length in leaf.spans] == [16, 16, 4]
    assert (leaf.bytes, leaf.shape) == (36, [9])
    assert leaf.sha256 == hashlib.sha256(value["w"].numpy().tobytes()).hexdigest()
    size = (tmp_path / "state").stat().st_size
    back, damaged = read(tmp_path / "state", value, leaves, size)
    assert back["w"].tolist() == list(range(9))
    assert damaged == ()


def test_partial_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.writev

    def write_7_bytes(descriptor: int, buffers: Sequence[memoryview]) -> int:
        return original(descriptor, [bytes(b"".join(buffers)[:7])])

    monkeypatch.setattr(os, "writev", write_7_bytes)
    write(tmp_path / "state", example())
    assert (tmp_path / "state").read_bytes() == to_bytes(example())


def test_an_existing_file_is_never_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("precious")
    with pytest.raises(FileExistsError):
        write(tmp_path / "state", example())
    assert (tmp_path / "state").read_text() == "precious"


def test_a_leaf_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SerialError, match="b/1: expected a tensor"):
        write(tmp_path / "state", {"a": torch.zeros(1000), "b": [1, {2}]})


def test_an_error_in_the_worker_thread_does_not_block_put(tmp_path: Path) -> None:
    def fail(items: Iterable[int]) -> None:
        raise RuntimeError(f"at {next(iter(items))}")

    with run_in_thread(fail) as worker:
        for i in range(100):
            worker.put(i)
        with pytest.raises(RuntimeError, match="at 0"):
            worker.result()


def test_the_worker_thread_ends_with_its_with_block() -> None:
    seen: list[int] = []

    def interrupted() -> None:
        with run_in_thread(seen.extend) as worker:
            worker.put(1)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert seen == [1]


def test_find_damage_names_the_damaged_leaf(tmp_path: Path) -> None:
    path = tmp_path / "state"
    value = {"a": torch.arange(5.0), "b": {"c": torch.arange(5), "d": torch.ones(3)}, "e": ()}
    written = write(path, value)
    recorded = Piece("state", written.bytes, written.leaves)
    data = path.read_bytes()
    for i in range(len(data)):
        bad = bytearray(data)
        bad[i] ^= 1
        path.write_bytes(bad)
        with open(path, "rb") as file:
            damage = find_damage(file, len(bad), recorded)
        with suppress(SerialError):
            assert read(path, value, written.leaves, len(bad))[1] == damage.leaves
        ends = [sum(leaf.spans[-1]) if leaf.spans else len(data) for leaf in written.leaves]  # start + length
        owner = next(leaf.path for leaf, end in zip(written.leaves, ends, strict=True) if i < end)
        assert damage is not None
        assert damage.leaves == (owner or "the end",)
    path.write_bytes(data)
    with open(path, "rb") as file:
        assert find_damage(file, len(data), recorded) is None
    assert tree.paths(value) == ["a", "b/c", "b/d"]
