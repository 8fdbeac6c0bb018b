"""Runs with adapters: they train, resume, stand in a folder that PEFT reads, and never fit another base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from pure import tree
from stages.run import adapter, checkpoint, pretrained, reward_model
from tests.stages.rungs import RUNGS, flags, run

SMALL: dict[str, Any] = {"lora": "conservative", "lora_rank": 2, "learning_rate": 0.05}


@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_trains_adapters_and_leaves_the_model(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(tmp_path, name, **SMALL) == 0
    assert "adapters: " in capsys.readouterr().out
    read = reward_model.load if name == "reward" else pretrained.load
    start, end = pretrained.load(tmp_path / "model"), read(tmp_path / name)
    params = end.params["model"] if name == "reward" else end.params
    assert torch.equal(params["embedding"], start.params["embedding"])
    assert torch.equal(params["layers"][0]["attention"]["k"], start.params["layers"][0]["attention"]["k"])
    assert not torch.equal(params["layers"][0]["attention"]["q"], start.params["layers"][0]["attention"]["q"])


def test_killed_and_run_again_it_comes_to_the_same_bits(tmp_path: Path) -> None:
    changes = SMALL | {"lora_dropout": 0.2, "qlora": True}
    assert run(tmp_path, "sft", **changes) == 0
    shutil.copytree(tmp_path / "sft", tmp_path / "whole")
    shutil.rmtree(tmp_path / "sft" / "final_model")
    for path in checkpoint.saved(tmp_path / "sft"):
        if checkpoint.step_of(path) > 4:
            shutil.rmtree(path)
    assert run(tmp_path, "sft", **changes) == 0
    one, other = (load_file(str(tmp_path / x / "final_model" / adapter.WEIGHTS)) for x in ("sft", "whole"))
    assert one.keys() == other.keys()
    assert all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}, {"use_rslora": True, "lora_targets": ["q", "up"]}])
def test_peft_reads_it_and_what_peft_writes_is_read(changes: dict[str, Any], tmp_path: Path) -> None:
    assert run(tmp_path, "sft", **SMALL, **changes) == 0
    folder = tmp_path / "sft" / "final_model"
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    ours = pretrained.load(folder)
    tokens = torch.arange(3, 15)[None]
    with torch.no_grad():
        wanted = theirs(tokens).logits
    torch.testing.assert_close(ours.model.forward(ours.params, tokens), wanted, rtol=1e-4, atol=1e-4)
    theirs.save_pretrained(tmp_path / "again")
    again = pretrained.load(tmp_path / "again")
    for x, y in zip(tree.leaves(again.params), tree.leaves(ours.params), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)
    one, other = (load_file(str(x / adapter.WEIGHTS)) for x in (folder, tmp_path / "again"))
    assert {name: x.numpy().tobytes() for name, x in one.items()} == {
        name: x.numpy().tobytes() for name, x in other.items()
    }


def test_a_later_rung_stands_on_merged_adapters(tmp_path: Path) -> None:
    assert run(tmp_path, "sft", **SMALL) == 0
    assert run(tmp_path, "dpo", model_path=tmp_path / "sft", **SMALL) == 0
    merged, end = pretrained.load(tmp_path / "sft"), pretrained.load(tmp_path / "dpo")
    assert not torch.equal(merged.params["layers"][0]["attention"]["q"], end.params["layers"][0]["attention"]["q"])


def test_quantised_adapters_are_merged_into_the_base_that_they_saw(tmp_path: Path) -> None:
    assert run(tmp_path, "sft", qlora=True) == 0
    start, end = pretrained.load(tmp_path / "model"), pretrained.load(tmp_path / "sft")
    unadapted = start.params["layers"][0]["feedforward"]["up"], end.params["layers"][0]["feedforward"]["up"]
    assert not torch.equal(*unadapted)  # in four bits it was another


def test_adapters_of_another_base_are_refused(tmp_path: Path) -> None:
    assert run(tmp_path, "sft", **SMALL) == 0
    other = pretrained.load(tmp_path / "model")
    pretrained.save(tmp_path / "model", other._replace(params=tree.map(lambda x: x * 1.5, other.params)))
    with pytest.raises(ValueError, match=r"and \S*model has other weights now; put the base back"):
        pretrained.load(tmp_path / "sft")


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("bias", "all", "bias 'all' is not supported, only 'none'"),
        ("modules_to_save", ["lm_head"], r"modules_to_save \['lm_head'\] is not supported; it would change"),
        ("r", 3, "expected shape"),
        ("target_modules", ["q_proj"], "the adapter does not fit the base: not understood"),
        ("target_modules", ["query"], "target_modules .* fits no matrix of the base"),
        ("base_model_name_or_path", None, "base_model_name_or_path is missing"),
    ],
)
def test_what_is_not_understood_is_refused(field: str, value: Any, told: str, tmp_path: Path) -> None:
    assert run(tmp_path, "sft", **SMALL, max_steps=1) == 0
    file = tmp_path / "sft" / "final_model" / adapter.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=told):
        pretrained.load(tmp_path / "sft")


def test_flags_of_adapters_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(tmp_path, "sft", lora_rank=4) == 2
    assert "flags of adapters (rank) need --lora balanced or --qlora; give one" in capsys.readouterr().err
    assert flags(tmp_path, "sft")
