"""Adapter folders that are damaged, moved or malicious are refused in one line that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pure import tree
from stages.models import adapter_folder, checksums, identity, initial_adapters, language_model
from tests.stages.small_stages import run

LORA = {"peft_type": "LORA", "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
FIELDS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"r": True, "target_modules": "(q|.*)*_proj!"}, "r: expected a whole number of at least 1, got True"),
    ({"target_modules": "["}, r"target_modules: '\[' is not a regular expression"),
    ({"target_modules": ["q_proj", None]}, "target_modules: expected a list of names"),
    ({"target_modules": 3}, "target_modules: expected a list of names, got 3"),
    ({"target_modules": []}, "target_modules .* matches no matrix"),
    ({"target_modules": "(.*)*" * 2000}, "target_modules: the regular expression .* takes too many steps"),
    ({"rank_pattern": {"(": 1}}, r"rank_pattern: .* is not a regular expression"),
    ({"rank_pattern": [[{}]]}, "rank_pattern: expected an object"),
    ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern\['q_proj'\]: expected a whole number"),
    ({"rank_pattern": {"x" * 2000 + str(i): 1 for i in range(60)}}, "rank_pattern: expected names of at most"),
    ({"alpha_pattern": {"q_proj": "x"}}, r"alpha_pattern\['q_proj'\]: expected a number, got 'x'"),
    ({"r": 10**30}, "r: expected a whole number"),
    ({"lora_alpha": float("nan")}, "lora_alpha: expected a number, got nan"),
    ({"use_rslora": "yes"}, "use_rslora: expected true or false, got 'yes'"),
    ({"use_dora": 1}, "use_dora: expected true or false, got 1"),
    ({"lora_dropout": "0.1"}, "lora_dropout: expected a number, got"),
    ({"task_type": -0.0}, "task_type -0.0 is not supported"),
    ({"peft_type": None}, "peft_type None is not supported"),
    ({"layers_to_transform": ["1"]}, "layers_to_transform: expected layer indices"),
    ({"layers_to_transform": [1], "target_modules": "q_proj"}, "target_modules is a string"),
    ({"layers_pattern": "layers"}, "layers_pattern needs layers_to_transform"),
    ({"layers_to_transform": [1], "layers_pattern": "["}, "layers_pattern: .* is not a regular expression"),
    ({"exclude_modules": "("}, "exclude_modules: .* is not a regular expression"),
    ({"modules_to_save": "lm_head"}, "modules_to_save: expected a list of names, got 'lm_head'"),
    ({"modules_to_save": ["["]}, "modules_to_save: .* is not a regular expression"),
    ({"modules_to_save": ["score"]}, "modules_to_save: the base has no module 'score'"),
    ({"trainable_token_indices": [-1]}, "trainable_token_indices: expected rows"),
    ({"trainable_token_indices": {"mlp": [1]}}, "trainable_token_indices: expected rows of embed_tokens or lm_head"),
    ({"trainable_token_indices": [10**9]}, "trainable_token_indices: expected indices .* got 1000000000"),
    ({"init_lora_weights": [1]}, r"init_lora_weights \[1\] is not known"),
    ({"base_model_name_or_path": 3}, "base_model_name_or_path is missing"),
    ({"base_model_name_or_path": "gone"}, "gone is missing, the base of the adapters"),
)  # fmt: skip
BASE_FIELDS = (
    ({"path": "some/base", "dtype": {}, "quantized": False}, "base.json: dtype: expected a str"),
    ({"dtype": "int4"}, "base.json: dtype: expected one of float32, bfloat16, float16, got 'int4'"),
    ({"quantized": "x"}, "base.json: quantized: expected a bool, got 'x'"),
    ({"digest": "884976"}, "the adapters were trained on .* has other weights now"),
)
TENSORS: tuple[tuple[Callable[[str, torch.Tensor], Any], str], ...] = (
    (lambda name, x: x[None], "expected shape"),
    (lambda name, x: x.flatten()[0], "expected shape"),
    (lambda name, x: x.to(torch.int8), "lora_A.weight is int8"),
    (
        lambda name, x: None if "1.self_attn.v_proj.lora_B" in name else x,
        "missing: .*1.self_attn.v_proj.lora_B.weight",
    ),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert run(folder, "sft", lora="conservative", lora_rank=2, max_steps=1) == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained / "sft" / "final_model", tmp_path / "adapter")
    (tmp_path / "adapter" / checksums.NAME).unlink()  # the tests change the files
    return tmp_path / "adapter"


def update_json(file: Path, fields: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def assert_refused(folder: Path, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        language_model.load(folder)
    text = str(error.value)
    assert "\n" not in text
    assert str(folder) in text


@pytest.mark.parametrize(("fields", "message"), FIELDS)
def test_a_wrong_field_of_adapter_config_is_refused_by_name(
    fields: dict[str, Any], message: str, folder: Path
) -> None:
    update_json(folder / adapter_folder.CONFIG, fields)
    assert_refused(folder, message)


@pytest.mark.parametrize(("fields", "message"), BASE_FIELDS)
def test_a_wrong_field_of_base_json_is_refused_by_name(
    fields: dict[str, Any], message: str, folder: Path
) -> None:
    update_json(folder / adapter_folder.BASE, fields)
    assert_refused(folder, message)


@pytest.mark.parametrize(("alter", "message"), TENSORS)
def test_a_tensor_that_does_not_fit_is_refused_by_name(alter: Callable, message: str, folder: Path) -> None:
    file = folder / adapter_folder.WEIGHTS
    changed = {name: alter(name, x) for name, x in load_file(file).items()}
    save_file({name: x.contiguous() for name, x in changed.items() if x is not None}, file)
    assert_refused(folder, message)


def test_adapters_whose_base_is_themselves_are_refused(trained: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other")
    update_json(folder / adapter_folder.CONFIG, {"base_model_name_or_path": str(tmp_path / "other")})
    update_json(tmp_path / "other" / adapter_folder.CONFIG, {"base_model_name_or_path": str(folder)})
    assert_refused(folder, "leads back to")
    update_json(folder / adapter_folder.CONFIG, {"base_model_name_or_path": str(folder)})
    assert_refused(folder, "base_model_name_or_path is this folder")


def test_a_relative_path_is_read_from_the_working_directory(
    trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update_json(folder / adapter_folder.CONFIG, {"base_model_name_or_path": "model"})
    monkeypatch.chdir(trained)
    assert language_model.load(folder)
    monkeypatch.chdir(folder)
    assert_refused(
        folder, "model is missing, the base of the adapters in .*; put it back, or write its new path"
    )


def test_unjoined_adapters_on_an_adapted_model_load_only_with_base_json(trained: Path, folder: Path) -> None:
    update_json(folder / adapter_folder.CONFIG, {"base_model_name_or_path": str(trained / "sft")})
    base_fields = {"digest": identity.hash_weights(language_model.load(trained / "sft").params)}
    update_json(folder / adapter_folder.BASE, base_fields)
    once, twice = language_model.load(trained / "sft"), language_model.load(folder)
    start = language_model.load(trained / "model")
    q = [x.params["layers"][0]["attention"]["q"] for x in (start, once, twice)]
    # The same adapter is added twice.
    torch.testing.assert_close(q[2] - q[1], q[1] - q[0], rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="not merged yet; run intro2llm merge"):
        initial_adapters.read(str(folder))
    (folder / adapter_folder.BASE).unlink()
    assert_refused(folder, "holds adapters itself, which PEFT would lose silently")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adapters_and_their_base_load_in_every_dtype(folder: Path, dtype: torch.dtype) -> None:
    original, cast = language_model.load(folder), language_model.load(folder, dtype=dtype)
    for x, expected in zip(tree.leaves(cast.params), tree.leaves(original.params), strict=True):
        torch.testing.assert_close(x, expected.to(dtype), rtol=0, atol=0)


def test_a_base_with_one_changed_number_is_refused(trained: Path, folder: Path) -> None:
    model = trained / "model"
    weights = load_file(model / "model.safetensors")
    shutil.copytree(model, folder / "base")
    weights["model.embed_tokens.weight"][5, 3] += 1e-3
    save_file(weights, folder / "base" / "model.safetensors")
    update_json(folder / adapter_folder.CONFIG, {"base_model_name_or_path": str(folder / "base")})
    assert_refused(folder, "has other weights now")


def test_the_base_digest_of_earlier_versions_is_accepted(trained: Path, folder: Path) -> None:
    params = language_model.load(trained / "model").params
    update_json(folder / adapter_folder.BASE, {"digest": identity._hash_sample(params)})
    assert language_model.load(folder)
    update_json(folder / adapter_folder.BASE, {"digest": "0" * 64})
    assert_refused(folder, "has other weights now")
