"""Params for JAX: exported, trained or saved again there, and read as --model_path; or refused by leaf."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
import pytest
import torch
import transformers

from pure import tree
from pure.serial import serial
from stages.checkpoint import checkpoint, orbax
from stages.cli.main import main
from stages.models import jax_params, language_model
from tests.stages.models.test_language_model import make_model
from tests.stages.small_stages import flags, run

Params = dict[str, Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied model in Hugging Face's layout, exported to both forms."""
    root = tmp_path_factory.mktemp("jax")
    language_model.save(root / "hf", make_model())
    for form in ("orbax", "msgpack"):
        export = [
            "export",
            "--model_path",
            str(root / "hf"),
            "--output_dir",
            str(root / form),
            "--format",
            form,
        ]
        assert main(export) == 0
    return root


def params_of(path: Path) -> Params:
    """Params of any model's path."""
    return language_model.load(path).params


def assert_equal(ours: Params, wanted: Params) -> None:
    """The same paths, and the same bits."""
    assert tree.paths(ours) == tree.paths(wanted)
    for x, y in zip(tree.leaves(ours), tree.leaves(wanted), strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


def test_jax_users_read_what_was_exported(folders: Path) -> None:
    from orbax.checkpoint import StandardCheckpointer

    wanted = params_of(folders / "hf")
    with StandardCheckpointer() as checkpointer:
        theirs = checkpointer.restore(folders / "orbax" / "params")
    assert_equal(tree.map(torch.from_numpy, theirs), wanted)
    target = tree.map(lambda x: np.zeros(x.shape, np.float32), wanted)
    data = (folders / "msgpack" / "params.msgpack").read_bytes()
    theirs = flax.serialization.from_bytes(target, data)
    assert_equal(tree.map(lambda x: torch.tensor(x), theirs), wanted)
    for form in ("orbax", "msgpack"):
        assert "head" not in tree.paths(params_of(folders / form))
        assert_equal(params_of(folders / form), wanted)
        assert (
            language_model.load(folders / form).model.config
            == language_model.load(folders / "hf").model.config
        )


def test_params_saved_by_jax_beside_the_export_are_a_model_path(folders: Path, tmp_path: Path) -> None:
    import jax
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    shutil.copytree(folders / "orbax", tmp_path / "m")
    params = jax.tree.map(lambda x: jnp.asarray(x.numpy() + 1), params_of(folders / "hf"))
    wanted = tree.map(lambda x: x + 1, params_of(folders / "hf"))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "m" / "tuned", params)
    with ocp.CheckpointManager(tmp_path / "m" / "steps") as manager:
        items = {"params": ocp.args.StandardSave(params), "extra": ocp.args.StandardSave({"x": jnp.ones(1)})}
        manager.save(7, args=ocp.args.Composite(**items))
    file = tmp_path / "m" / "tuned.msgpack"
    file.write_bytes(flax.serialization.to_bytes({"params": params, "step": 3}))
    shutil.copy(file, tmp_path / "m" / "checkpoint_3")
    for path in (tmp_path / "m" / "tuned", tmp_path / "m" / "steps", file, tmp_path / "m" / "checkpoint_3"):
        assert_equal(params_of(path), wanted)
    assert_equal(params_of(tmp_path / "m"), params_of(folders / "hf"))  # several, of which one is `params`
    head = {**params, "head": params["embedding"]}
    file.write_bytes(flax.serialization.to_bytes(head))
    out = ["import", "--model_path", str(file), "--output_dir", str(tmp_path / "hf"), "--dtype", "bfloat16"]
    assert main(out) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert torch.equal(theirs.get_input_embeddings().weight, wanted["embedding"].bfloat16())


def test_a_stage_starts_from_an_orbax_folder_and_its_state_goes_to_orbax(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(tmp_path, "sft") == 0
    chosen = flags(tmp_path, "sft", output_dir=tmp_path / "again")
    export = ["export", "--model_path", str(tmp_path / "sft"), "--output_dir", str(tmp_path / "out")]
    assert main([*export, "--state"]) == 2
    assert "no part of Hugging Face's layout; add --format orbax" in capsys.readouterr().err
    assert main([*export, "--state", "--format", "orbax"]) == 0
    saved = checkpoint.load(tmp_path / "sft", None).state
    state = orbax.read(tmp_path / "out" / "state")
    assert_equal(state, jax_params.as_lists(saved))
    assert int(state["step"]) == 6
    assert_equal(params_of(tmp_path / "out"), params_of(tmp_path / "sft"))
    export[-1] = str(tmp_path / "flax")
    assert main([*export, "--state", "--format", "msgpack"]) == 0
    newest = checkpoint.list_saved(tmp_path / "sft")[-1]
    assert (tmp_path / "flax" / "state.msgpack").read_bytes() == (newest / "state.msgpack").read_bytes()
    chosen[chosen.index("--model_path") + 1] = str(tmp_path / "out")
    assert main(["sft", *chosen]) == 0
    missing = ["export", "--model_path", str(folders / "hf"), "--output_dir", str(tmp_path / "x"), "--state"]
    assert main([*missing, "--format", "msgpack"]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


def without(path: str) -> Callable[[Params], Params]:
    """Removes a leaf at the top."""
    return lambda params: {name: x for name, x in params.items() if name != path}


def norm_as(scale: Any) -> Callable[[Params], Params]:
    """Replaces the last norm's scale."""
    return lambda params: {**params, "norm": {"scale": scale}}


MISFITS: dict[str, tuple[Callable[[Params], Any], str]] = {
    "missing": (without("embedding"), "missing embedding; not understood none"),
    "unknown": (lambda p: {**p, "extra": torch.ones(1)}, "not understood extra"),
    "shape": (norm_as(torch.ones(3)), r"norm/scale: expected shape \[16\] by config.json, got \[3\]"),
    "turned": (lambda p: {**p, "embedding": p["embedding"].t()}, r"embedding: .*matrices are \[out, in\]"),
    "integers": (norm_as(torch.ones(16, dtype=torch.int32)), "norm/scale: expected float32.*got int32"),
    "fewer layers": (
        lambda p: {**p, "layers": p["layers"][:1]},
        "layers: .*num_hidden_layers 2, got 1 layer;",
    ),
    "head": (lambda p: {**p, "head": p["embedding"] + 1}, "head: differs from embedding"),
    "other names": (
        lambda p: {"Dense_0": {"kernel": torch.ones(2, 2)}},
        "got 0 layers; the tree has Dense_0",
    ),
    "no tree": (lambda p: torch.ones(2), "got 0 layers"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_params_that_do_not_fit_are_refused_by_leaf(folders: Path, tmp_path: Path, name: str) -> None:
    change, message = MISFITS[name]
    for file in (folders / "msgpack").glob("*.json"):
        shutil.copy(file, tmp_path)
    file = tmp_path / "changed.msgpack"
    file.write_bytes(serial.to_bytes(change(params_of(folders / "hf"))))
    with pytest.raises(ValueError, match=message) as error:
        language_model.load(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_missing_and_damaged_files_are_named(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "orbax" / "params", tmp_path / "a" / "b" / "c" / "params")
    path = tmp_path / "a" / "b" / "c" / "params"
    with pytest.raises(FileNotFoundError, match=r"no config.json and tokenizer.json beside them"):
        language_model.load(path)
    shutil.copy(folders / "orbax" / "config.json", tmp_path / "a" / "b")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.json beside them; copy it .* into .*a/b \("):
        language_model.read_config(path)
    shutil.copy(folders / "orbax" / "tokenizer.json", tmp_path / "a" / "b")
    assert_equal(params_of(path), params_of(folders / "hf"))
    config = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    (tmp_path / "a" / "b" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1000}))
    with pytest.raises(ValueError, match="num_hidden_layers 1000, got 2 layers"):
        language_model.load(path)
    (path / "manifest.ocdbt").unlink()
    with pytest.raises(ValueError, match=r"manifest\.ocdbt is missing: the save was never finished"):
        language_model.load(path)
    file = tmp_path / "a" / "b" / "p.msgpack"
    file.write_bytes((folders / "msgpack" / "params.msgpack").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"p\.msgpack: not sound msgpack of Flax .*larger than the 55 bytes"):
        language_model.load(file)
