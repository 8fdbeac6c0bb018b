"""Runs with adapters train, resume and save folders that PEFT reads; adapters of another base are refused."""

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
from stages.checkpoint import checkpoint
from stages.cli.flags import parse
from stages.cli.main import main
from stages.models import adapter, adapter_folder, checksums, language_model, reward_model
from stages.run import adapter_flags, build
from stages.run.options.tuning import DPOOptions, SFTOptions
from tests.stages.small_stages import NAMES, flags, run, write_model

SMALL: dict[str, Any] = {"lora": "conservative", "lora_rank": 2, "learning_rate": 0.05}


def attach_adapter(options: SFTOptions, base: language_model.Pretrained) -> adapter.Adapter:
    config = adapter_flags.lora_config_of(options)
    assert config is not None
    return adapter.attach(
        base.model,
        base.params,
        config,
        path=options.model_path,
        dtype=torch.float32,
        quantize=False,
        digest="",
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_trains_adapters_and_leaves_other_weights_unchanged(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(tmp_path, name, **SMALL) == 0
    assert "adapters: " in capsys.readouterr().out
    load = reward_model.load if name == "reward" else language_model.load
    start, end = language_model.load(tmp_path / "model"), load(tmp_path / name)
    params = end.params["model"] if name == "reward" else end.params
    assert torch.equal(params["embedding"], start.params["embedding"])
    assert torch.equal(params["layers"][0]["attention"]["k"], start.params["layers"][0]["attention"]["k"])
    assert not torch.equal(params["layers"][0]["attention"]["q"], start.params["layers"][0]["attention"]["q"])


def test_a_killed_run_with_adapters_resumes_to_the_same_bits(tmp_path: Path) -> None:
    changes = SMALL | {"lora_dropout": 0.2, "qlora": True}
    assert run(tmp_path, "sft", **changes) == 0
    shutil.copytree(tmp_path / "sft", tmp_path / "whole")
    shutil.rmtree(tmp_path / "sft" / "final_model")
    for path in checkpoint.list_saved(tmp_path / "sft"):
        if checkpoint.step_of(path) > 4:
            shutil.rmtree(path)
    assert run(tmp_path, "sft", **changes) == 0
    one, other = (
        load_file(str(tmp_path / x / "final_model" / adapter_folder.WEIGHTS)) for x in ("sft", "whole")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}, {"use_rslora": True, "lora_targets": "q,up"}])
def test_peft_loads_saved_adapters_and_adapters_of_peft_are_read(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    assert run(tmp_path, "sft", **SMALL, **changes) == 0
    folder = tmp_path / "sft" / "final_model"
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    ours = language_model.load(folder)
    tokens = torch.arange(3, 15)[None]
    with torch.no_grad():
        expected = theirs(tokens).logits
    torch.testing.assert_close(ours.model.forward(ours.params, tokens), expected, rtol=1e-4, atol=1e-4)
    theirs.save_pretrained(tmp_path / "again")
    again = language_model.load(tmp_path / "again")
    for x, y in zip(tree.leaves(again.params), tree.leaves(ours.params), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)
    our_file, peft_file = (load_file(str(x / adapter_folder.WEIGHTS)) for x in (folder, tmp_path / "again"))
    assert {name: x.numpy().tobytes() for name, x in our_file.items()} == {
        name: x.numpy().tobytes() for name, x in peft_file.items()
    }


TWO_RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "other ranks and targets": ({"lora_rank": 3}, {"lora_targets": "q,up", "use_rslora": True}),
    "the same twice": ({}, {}),
    "quantised first": ({"qlora": True}, {}),
    "quantised last": ({}, {"qlora": True}),
    "quantised twice": ({"qlora": True}, {"qlora": True, "lora_targets": "v,down"}),
}


@pytest.mark.parametrize("name", TWO_RUNS)
def test_adapters_trained_on_an_adapted_model_are_joined_on_its_base(name: str, tmp_path: Path) -> None:
    first, second = (SMALL | {"max_steps": 2} | changes for changes in TWO_RUNS[name])
    assert run(tmp_path, "sft", **first) == 0
    changes = second | {"model_path": tmp_path / "sft"}
    assert run(tmp_path, "dpo", **changes) == 0
    folder = tmp_path / "dpo" / "final_model"
    fields = json.loads((folder / adapter_folder.CONFIG).read_text())
    assert fields["base_model_name_or_path"] == str(tmp_path / "model")
    start, end = language_model.load(tmp_path / "sft"), language_model.load(folder)
    assert any(
        not torch.equal(x, y) for x, y in zip(tree.leaves(start.params), tree.leaves(end.params), strict=True)
    )
    # The loaded model computes what the run's last state computes.
    built = build.build(parse(DPOOptions, "dpo", flags(tmp_path, "dpo", **changes)), say=lambda _: None)
    state = checkpoint.load(
        checkpoint.list_saved(tmp_path / "dpo")[-1], built.stage.init(built.key, params=built.params)
    )[0]
    tokens = torch.arange(3, 15)[None]
    logits = end.model.forward(end.params, tokens)
    torch.testing.assert_close(logits, built.base.model.forward(state.params, tokens), rtol=1e-4, atol=1e-4)
    if not (first.get("qlora") or second.get("qlora")):  # PEFT would load the base without quantisation
        base = transformers.AutoModelForCausalLM.from_pretrained(fields["base_model_name_or_path"])
        theirs = peft.PeftModel.from_pretrained(base, folder).eval()
        with torch.no_grad():
            torch.testing.assert_close(logits, theirs(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("lora_targets", "matrices"),
    [
        (("q_proj", "v_proj"), "qv"),
        (("q_proj,v_proj",), "qv"),
        (("self_attn.o_proj",), "o"),
        (("all-linear",), ["q", "k", "v", "o", "gate", "up", "down"]),
    ],
)
def test_lora_targets_may_be_peft_s_names(
    lora_targets: tuple[str, ...], matrices: Any, tmp_path: Path
) -> None:
    write_model(tmp_path)
    found = language_model.load(tmp_path / "model")
    options = SFTOptions(model_path=str(tmp_path / "model"), lora="conservative", lora_targets=lora_targets)
    built = attach_adapter(options, found)
    assert {path.rsplit("/", 2)[1] for path in tree.paths(built.model.spec)} == set(matrices)


@pytest.mark.parametrize(
    ("target", "message"),
    [("embed_tokens", "is the embedding, which cannot have an adapter here; targets are q_proj"),
     ("c_attn", "'c_attn' matches no matrix of the base; there are down, gate, k, o, q, up, v"),
     ("lm_head", "'head' matches no matrix of the base")],
)  # fmt: skip
def test_an_unknown_target_is_refused(target: str, message: str, tmp_path: Path) -> None:
    write_model(tmp_path)
    found = language_model.load(tmp_path / "model")
    options = SFTOptions(model_path=str(tmp_path / "model"), lora="conservative", lora_targets=(target,))
    with pytest.raises(ValueError, match=message):
        attach_adapter(options, found)


def test_a_third_adapter_is_joined_with_the_first_two(tmp_path: Path) -> None:
    two_steps = SMALL | {"max_steps": 2}
    assert run(tmp_path, "sft", **two_steps) == 0
    assert run(tmp_path, "dpo", **two_steps | {"model_path": tmp_path / "sft", "lora_targets": "up"}) == 0
    shutil.copytree(tmp_path / "dpo", tmp_path / "second")
    assert (
        run(
            tmp_path,
            "dpo",
            **two_steps | {"model_path": tmp_path / "second", "output_dir": tmp_path / "third"},
        )
        == 0
    )
    fields = json.loads((tmp_path / "third" / "final_model" / adapter_folder.CONFIG).read_text())
    assert (fields["r"], set(fields["rank_pattern"].values())) == (4, {2})
    assert language_model.load(tmp_path / "third")


@pytest.mark.parametrize(("first", "second"), [({"use_dora": True}, {}), ({}, {"use_dora": True})])
def test_adapters_that_cannot_be_joined_are_refused_until_merged(
    first: dict[str, Any], second: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(tmp_path, "sft", **SMALL | first, max_steps=1) == 0
    assert run(tmp_path, "dpo", model_path=tmp_path / "sft", **SMALL | second) == 2
    message = capsys.readouterr().err
    assert f"run intro2llm merge --model_path {tmp_path / 'sft'} --output_dir MERGED" in message
    assert (
        main(["merge", "--model_path", str(tmp_path / "sft"), "--output_dir", str(tmp_path / "whole")]) == 0
    )
    assert run(tmp_path, "dpo", model_path=tmp_path / "whole", **SMALL | second, max_steps=1) == 0


def test_qlora_adapters_are_loaded_with_the_quantised_base(tmp_path: Path) -> None:
    assert run(tmp_path, "sft", qlora=True) == 0
    start, end = language_model.load(tmp_path / "model"), language_model.load(tmp_path / "sft")
    matrices_without_adapter = (
        start.params["layers"][0]["feedforward"]["up"],
        end.params["layers"][0]["feedforward"]["up"],
    )
    assert not torch.equal(*matrices_without_adapter)  # the second was rounded to 4 bits


def test_adapters_of_another_base_are_refused(tmp_path: Path) -> None:
    assert run(tmp_path, "sft", **SMALL) == 0
    other = language_model.load(tmp_path / "model")
    language_model.save(tmp_path / "model", other._replace(params=tree.map(lambda x: x * 1.5, other.params)))
    with pytest.raises(ValueError, match=r"and \S*model has other weights now; restore the base"):
        language_model.load(tmp_path / "sft")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("bias", "some", "adapter_config.json: bias: expected 'none', 'all' or 'lora_only', got 'some'"),
        (
            "modules_to_save",
            ["lm_head"],
            r"the adapter lacks base_model.model.lm_head.weight, which its fields",
        ),
        ("r", 3, "expected shape"),
        ("target_modules", ["q_proj"], "the adapter does not fit the base: not understood"),
        ("target_modules", ["query"], "target_modules .* matches no matrix of the base"),
        ("base_model_name_or_path", None, "base_model_name_or_path is missing"),
    ],
)
def test_unsupported_fields_of_adapter_config_are_refused(
    field: str, value: Any, message: str, tmp_path: Path
) -> None:
    assert run(tmp_path, "sft", **SMALL, max_steps=1) == 0
    file = tmp_path / "sft" / "final_model" / adapter_folder.CONFIG
    (file.parent / checksums.NAME).unlink()
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=message):
        language_model.load(tmp_path / "sft")


def test_flags_of_adapters_without_lora_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(tmp_path, "sft", lora_rank=4) == 2
    assert "flags of adapters (rank) need --lora balanced or --qlora; give one" in capsys.readouterr().err
    assert flags(tmp_path, "sft")
