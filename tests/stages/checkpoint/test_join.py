"""`stages.checkpoint.join`: from pieces, the bytes that one process would have written, which Flax reads."""

from __future__ import annotations

from pathlib import Path

import flax.serialization
import numpy as np
import pytest
import torch
import torch.distributed as dist

from pure.parallel import rows
from pure.parallel.group import group_of
from pure.serial import serial, writer
from pure.types import Tree
from stages.checkpoint import checkpoint
from stages.checkpoint.join import to_msgpack
from tests.crew import Crew

pytestmark = pytest.mark.processes


def example() -> Tree:
    return {
        "w": torch.arange(60.0).reshape(5, 12),
        "empty": [{}, None, torch.zeros(0, 3)],
        "b": {"half": torch.arange(9).bfloat16(), "n": torch.tensor(3)},
        "text": "x",
        "tail": (),
    }


def save(run: Path, chunk_bytes: int) -> None:
    """Saves in two pieces, with leaves of more than `chunk_bytes` in Flax's chunks."""
    group = group_of("test", dist.group.WORLD)
    value = example()
    cut = value | {"w": rows.cut(value["w"], group), "b": rows.cut(value["b"], group)}
    original = writer._encode
    writer._encode = lambda item, limit: original(item, chunk_bytes)
    try:
        checkpoint.save(run, cut, step=1)
    finally:
        writer._encode = original


def test_the_joined_file_has_the_bytes_of_one_process_and_flax_reads_it(two: Crew, tmp_path: Path) -> None:
    two.run(save, tmp_path, writer.CHUNK_BYTES)
    data = to_msgpack(tmp_path, tmp_path / "state.msgpack").read_bytes()
    assert data == serial.to_bytes(example())
    theirs = flax.serialization.msgpack_restore(data)
    assert np.array_equal(theirs["w"], np.arange(60.0, dtype=np.float32).reshape(5, 12))
    assert theirs["b"]["half"].dtype.name == "bfloat16"
    with pytest.raises(FileExistsError):
        to_msgpack(tmp_path, tmp_path / "state.msgpack")
    one = checkpoint.save(tmp_path / "one", example(), step=1)
    assert to_msgpack(one, tmp_path / "again").read_bytes() == data


def test_leaves_in_chunks_are_joined(two: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two.run(save, tmp_path, 52)
    monkeypatch.setattr("stages.checkpoint.skeleton.CHUNK_BYTES", 52)
    assert to_msgpack(tmp_path, tmp_path / "out").read_bytes() == serial.to_bytes(example())


def test_damage_is_named_and_leaves_no_file(two: Crew, tmp_path: Path) -> None:
    two.run(save, tmp_path, writer.CHUNK_BYTES)
    path = tmp_path / "checkpoints" / "step-00000001" / "state-00002-of-00002.msgpack"
    data = path.read_bytes()
    for i in range(len(data)):
        bad = bytearray(data)
        bad[i] ^= 1
        path.write_bytes(bad)
        with pytest.raises(
            ValueError, match=r"state-00002-of-00002.msgpack: bytes have changed .*leaves [wb]"
        ):
            to_msgpack(tmp_path, tmp_path / "out", warn=lambda text: None)
        assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match="no checkpoint here"):
        to_msgpack(tmp_path / "checkpoints" / "nowhere", tmp_path / "out")
    (path.parent / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest.json: .*; no other checkpoint is left"):
        to_msgpack(tmp_path, tmp_path / "out", warn=lambda text: None)
    checkpoint.save(tmp_path, example() | {"text": "older"}, step=0)
    lines: list[str] = []
    to_msgpack(tmp_path, tmp_path / "out", warn=lines.append)
    assert serial.from_bytes(None, (tmp_path / "out").read_bytes())["text"] == "older"
    assert len(lines) == 1
    assert "skipped a damaged checkpoint" in lines[0]
    checkpoint.save(tmp_path / "dcp", {"w": torch.ones(1)}, step=1, format="dcp")
    with pytest.raises(ValueError, match=r"has the format of torch\.distributed\.checkpoint"):
        to_msgpack(tmp_path / "dcp", tmp_path / "again", warn=lambda text: None)
