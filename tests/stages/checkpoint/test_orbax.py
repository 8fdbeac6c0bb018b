"""Orbax folders: what Orbax wrote is read, what we wrote Orbax restores, and damage is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pure import optim, random, tree
from pure.types import ParamSpec
from stages.checkpoint import orbax, orbax_folder
from stages.state import TrainState
from tests.rules.source import ROOT


class Empty(NamedTuple):
    """A container without leaves, as optax's EmptyState."""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that Orbax wrote, on eight simulated devices."""
    folder = tmp_path_factory.mktemp("orbax")
    command = [sys.executable, "-m", "tests.stages.checkpoint.orbax_writer", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return folder


def train_state() -> TrainState:
    """A state after one update: float32 and bfloat16 params, moments, a count, a key."""
    layers = [{"w": torch.arange(6.0).reshape(2, 3)}, {"w": torch.full((2, 3), 0.1, dtype=torch.bfloat16)}]
    params = {"layers": layers, "bias": torch.ones(3)}
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-3))
    gradients = tree.map(torch.ones_like, params)
    _, opt_state = optimizer.update(gradients, optimizer.init(params), params)
    metrics = {"loss": torch.tensor(0.5)}
    return TrainState(torch.tensor(1, dtype=torch.int32), random.key(7), params, opt_state, {}, metrics)


def assert_same(ours: Any, wanted: Any) -> None:
    """Both trees have one structure, and their leaves the same dtypes and bits."""
    assert str(tree.structure(ours)) == str(tree.structure(wanted))
    for x, y in zip(tree.leaves(ours), tree.leaves(wanted), strict=True):
        assert x.dtype == y.dtype
        assert orbax_folder.digest(x) == orbax_folder.digest(y)


def wanted_params() -> dict:
    """The params that `orbax_writer.params` wrote."""
    layers = [{"w": torch.arange(6.0).reshape(2, 3)}, {"w": torch.full((2, 3), 0.1, dtype=torch.bfloat16)}]
    f8 = torch.full((2,), 0.5).to(torch.float8_e4m3fn)
    return {"layers": layers, "scale": torch.tensor(3.0), "f8": f8}


@pytest.mark.parametrize("name", ["standard", "zarr2", "zarr3", "v1", "v1_steps"])
def test_params_in_each_of_orbax_s_forms(theirs: Path, name: str) -> None:
    if not (theirs / name).exists():
        pytest.skip("this Orbax has no v1")
    assert_same(orbax.read(theirs / name), wanted_params())
    spec = tree.map(lambda x: ParamSpec(shape=tuple(x.shape), dtype=x.dtype), wanted_params())
    assert_same(orbax.read(theirs / name, spec), wanted_params())


def test_sharded_arrays_are_whole_and_the_newest_step_is_read(theirs: Path) -> None:
    assert torch.equal(orbax.read(theirs / "sharded")["w"], torch.arange(64.0).reshape(8, 8))
    assert orbax.read(theirs / "manager")["w"].tolist() == [10.0, 10.0]
    assert orbax.read(theirs / "manager" / "2")["w"].tolist() == [2.0, 2.0]
    assert orbax.read(theirs / "items" / "at_5" / "params")["w"].tolist() == [0.0, 1.0, 2.0]


def test_states_of_optax_and_flax_fit_ours(theirs: Path) -> None:
    params = {"w": torch.arange(3.0)}
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adam(1e-3))
    _, opt_state = optimizer.update({"w": torch.ones(3)}, optimizer.init(params), params)
    like = {"step": torch.tensor(0, dtype=torch.int32), "params": params, "opt_state": optimizer.init(params)}
    for name in ("state", "flax_state"):  # a 0-d array; a Python number
        state = orbax.read(theirs / name, like, subset=True)
        assert state["step"].item() == 7
        assert state["step"].dtype == torch.int32
        assert str(tree.structure(state["opt_state"])) == str(tree.structure(opt_state))
        for x, y in zip(tree.leaves(state["opt_state"]), tree.leaves(opt_state), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-6, atol=0)
    assert torch.equal(orbax.read(theirs / "state")["key"], random.key(3))
    number = {"step": torch.tensor(0.0)}
    with pytest.raises(ValueError, match=r"step: expected float32\[\], got a Python int"):
        orbax.read(theirs / "flax_state", number, subset=True)


def test_variables_of_nnx_fit_a_list(theirs: Path) -> None:
    like = [{"kernel": torch.zeros(2)} for _ in range(11)]
    assert [layer["kernel"][0].item() for layer in orbax.read(theirs / "nnx", like)] == list(range(11))


def test_numbers_texts_and_empty_nodes(theirs: Path) -> None:
    read = orbax.read(theirs / "numbers")
    assert read.pop("big").tolist() == [2**40]
    assert read == {"i": 3, "f": 2.5, "text": "words", "none": None, "empty": {}}
    assert [type(read[name]) for name in "if"] == [int, float]


def test_orbax_restores_our_state_with_and_without_optax_s_classes(tmp_path: Path) -> None:
    import jax
    import numpy as np
    import optax
    from orbax.checkpoint import CheckpointManager, StandardCheckpointer
    from orbax.checkpoint.args import StandardRestore

    state = train_state()
    path = orbax.write(tmp_path / "state", state)
    params = jax.tree.map(lambda x: np.asarray(x.float()), state.params)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, str(x.dtype)[6:]), state._asdict())
    template = shapes | {"opt_state": jax.eval_shape(tx.init, shapes["params"])}
    with StandardCheckpointer() as checkpointer:
        restored, plain = checkpointer.restore(path, template), checkpointer.restore(path)
    assert jax.tree.structure(restored["opt_state"]) == jax.tree.structure(tx.init(params))
    for result in (restored, plain):
        for x, y in zip(jax.tree.leaves(result), tree.leaves(state._asdict()), strict=True):
            assert str(x.dtype) == str(y.dtype)[6:]
            assert np.array_equal(np.asarray(x, np.float32), y.float().numpy())
    assert_same(orbax.read(path, state), state)
    # A step of a CheckpointManager.
    orbax.write(tmp_path / "run" / "7" / "default", state)
    with CheckpointManager(tmp_path / "run") as manager:
        assert manager.latest_step() == 7
        step = manager.restore(7, args=StandardRestore(template))
    assert jax.tree.structure(step) == jax.tree.structure(restored)
    # Theirs, restored and saved again, is ours.
    with StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "again", restored)
    assert_same(orbax.read(tmp_path / "again", state), state)


def test_every_dtype_and_container_survives(tmp_path: Path) -> None:
    numbers = torch.tensor([0.0, 1.0, 2.0])
    state = {name: numbers.to(getattr(torch, name)) for name in orbax.DTYPES if name != "float8_e8m0fnu"}
    state |= {"scales": torch.ones(3).to(torch.float8_e8m0fnu), "wide": torch.tensor([2**62 + 1])}
    state |= {"transposed": torch.arange(6).reshape(2, 3).t(), "none": None, "empty": (Empty(), [], {}, ())}
    state |= {"0-d": torch.tensor(True), "layers": [(torch.ones(1),)]}
    path = orbax.write(tmp_path / "folder", state)
    assert_same(orbax.read(path, state), state)


class Pair(NamedTuple):
    """A container with two children."""

    first: Any
    second: Any


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of any dtype that both libraries have, with up to three axes, perhaps transposed."""
    dtype = getattr(torch, draw(st.sampled_from([name for name in orbax.DTYPES if name != "float8_e8m0fnu"])))
    shape = draw(st.lists(st.integers(1, 3), max_size=3))
    numbers = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    return numbers.mT if len(shape) > 1 and draw(st.booleans()) else numbers


TREES = st.recursive(
    st.one_of(tensors(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b c", "d/e", "ü", "0", ".."]), inner, max_size=3),
        st.builds(Pair, inner, inner),
        st.tuples(inner, inner),
        st.builds(Empty),
    ),
    max_leaves=8,
)


@given(TREES)
@settings(max_examples=12)
def test_any_tree_comes_back(node: Any) -> None:
    state = {"first": torch.ones(1), "node": node}
    with tempfile.TemporaryDirectory() as folder:
        path = orbax.write(Path(folder) / "state", state)
        assert_same(orbax.read(path, state), state)
        plain = tree.leaves(orbax.read(path))
    assert list(map(orbax_folder.digest, plain)) == list(map(orbax_folder.digest, tree.leaves(state)))


REFUSED = {
    "text": ({"a": "words"}, "a: expected a tensor"),
    "empty": ({"a": torch.ones(0, 3)}, r"a: Orbax cannot hold a cpu tensor of float32\[0, 3\]"),
    "collision": ({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, r"second leaf under the name 'a\.b'"),
    "two keys": ({1: torch.ones(1), "1": torch.ones(1)}, "two keys of this dict"),
    "alone": (torch.ones(2), r'one leaf.*write \{"name": leaf\}'),
    "no leaf": ({"a": {}}, "no leaf"),
    "huge": ({"a": 2**64}, "does not fit in 64 bits"),
    "meta": ({"a": torch.ones(1, device="meta")}, "cannot hold a meta tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_orbax_cannot_hold_is_refused_before_it_starts(tmp_path: Path, name: str) -> None:
    state, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        orbax.write(tmp_path / "folder", state)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_only_when_asked_and_only_when_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = orbax.write(tmp_path / "folder", {"w": torch.zeros(1)})
    with pytest.raises(FileExistsError, match="exists already"):
        orbax.write(path, {"w": torch.ones(1)})
    with monkeypatch.context() as patch:

        def fail(folder: Path) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(orbax.files, "sync_contents", fail)
        with pytest.raises(OSError, match="No space left on device; make room there"):
            orbax.write(path, {"w": torch.ones(1)}, overwrite=True)
    assert orbax.read(path)["w"].item() == 0
    assert orbax.read(orbax.write(path, {"w": torch.ones(1)}, overwrite=True))["w"].item() == 1
    assert [x.name for x in tmp_path.iterdir()] == ["folder"]


MISFITS = {
    "shape": ({"scale": torch.zeros(2)}, r"scale: expected float32\[2\], got float32\[\]"),
    "dtype": ({"scale": torch.tensor(0)}, r"scale: expected int64\[\], got float32\[\]"),
    "missing": ({"absent": torch.zeros(2)}, "the target has 'absent'"),
    "longer": ({"layers": [{}, {}, {}]}, "layers: the target has '2'"),
    "leaf": ({"layers": torch.zeros(2)}, r"layers: expected float32\[2\], got a dict"),
    "node": ({"scale": {"w": torch.zeros(2)}}, r"scale: expected a dict, got float32\[\]"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_another_structure_shape_or_dtype_is_refused(theirs: Path, name: str) -> None:
    like, message = MISFITS[name]
    with pytest.raises(ValueError, match=message) as error:
        orbax.read(theirs / "standard", like, subset=True)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="the data has "):
        orbax.read(theirs / "standard", {"scale": torch.tensor(0.0)})


def test_other_folders_are_refused_by_name(theirs: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "run" / f"4{orbax_folder.TEMPORARY}"
    unfinished.mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    cases = {
        theirs / "items": r"holds several trees \(params, state\); choose one",
        theirs / "dotted": r"two leaves under the one name 'a\.b'",
        theirs / "int4": "w: torch has no dtype int4",
        theirs / "unmerged": r"manifest\.ocdbt is missing: the save was never finished",
        tmp_path / "run": "the save was never finished",
        unfinished: "this save was never finished",
        tmp_path / "run" / "4": "a save of it was never finished",
        tmp_path / "file": "got a file",
        tmp_path: "no folder that Orbax wrote",
        tmp_path / "absent": "is missing; expected a folder",
        Path("gs://bucket/run"): "only local folders",
    }
    for path, message in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            orbax.read(path)
        assert "\n" not in str(error.value)


def refusal(folder: Path, right: Any) -> str:
    """The error of reading a damaged folder; "" if what was damaged is not needed."""
    try:
        assert_same(orbax.read(folder), right)
    except ValueError as error:
        return str(error)
    return ""


def test_damage_is_refused_in_one_line(theirs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = orbax.write(tmp_path / "ours", {"layers": [{"w": torch.randn(32, 32)}], "step": torch.tensor(3)})
    copy = tmp_path / "copy"
    needed = ("_METADATA", "manifest.ocdbt", ".zarray", "zarr.json", "0.0", "c/0/0")
    for source in (ours, theirs / "zarr2", theirs / "zarr3"):
        right = orbax.read(source)
        for file in sorted(x.relative_to(source) for x in source.rglob("*") if x.is_file()):
            data = (source / file).read_bytes()
            for kept in (None, data[: len(data) // 2]):
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(source, copy)
                (copy / file).unlink()
                if kept is not None:
                    (copy / file).write_bytes(kept)
                message = refusal(copy, right)
                assert "\n" not in message
                if file.name in needed and "ocdbt.process_0" not in file.parts:
                    assert str(copy) in message
    # One bit of the numbers, which Orbax does not notice.
    data_file = max((ours / "ocdbt.process_0" / "d").iterdir(), key=lambda x: x.stat().st_size)
    data = bytearray(data_file.read_bytes())
    data[len(data) // 2] ^= 1
    data_file.write_bytes(data)
    with pytest.raises(ValueError, match=r"layers/0/w: damaged, its checksum differs"):
        orbax.read(ours)


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path: Path) -> None:
    for name in (".folder.partial", f".folder.partial{orbax_folder.TEMPORARY}", ".folder.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "d").write_bytes(b"x")
    orbax.write(tmp_path / "folder", {"w": torch.ones(1)})
    assert [x.name for x in tmp_path.iterdir()] == ["folder"]


def test_without_the_libraries_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = orbax.write(tmp_path / "folder", {"w": torch.ones(1)})
    for name in ("tensorstore", "orbax.checkpoint"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ImportError, match=r"tensorstore, .* is not installed: pip install 'intro2llm\[jax\]'"
    ):
        orbax.read(path)
    with pytest.raises(ImportError, match=r"orbax-checkpoint, .*: pip install 'intro2llm\[jax\]'"):
        orbax.write(tmp_path / "other", {"w": torch.ones(1)})


def test_hostile_metadata_reads_nothing_outside_the_folder(theirs: Path, tmp_path: Path) -> None:
    shutil.copytree(theirs / "zarr2", tmp_path / "folder")
    metadata = json.loads((tmp_path / "folder" / "_METADATA").read_text())
    for entry in metadata["tree_metadata"].values():
        entry["key_metadata"][0]["key"] = "../folder/" + entry["key_metadata"][0]["key"]
    (tmp_path / "folder" / "_METADATA").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="lies outside the folder"):
        orbax.read(tmp_path / "folder")
