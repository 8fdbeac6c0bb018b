"""`intro2llm import`, `export` and `merge` write folders that transformers loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard

from pure import tree
from stages.cli.main import main
from stages.models import language_model
from tests.stages.models.gguf_writer import write
from tests.stages.models.test_gguf import make_params, tokenizer
from tests.stages.models.test_language_model import make_model
from tests.stages.small_stages import run, write_model


def test_a_gguf_file_is_imported_and_exported_in_bfloat16(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config, params = make_params()
    file = write(tmp_path / "model.gguf", config, params, tokenizer())
    assert main(["import", "--model_path", str(file), "--output_dir", str(tmp_path / "in")]) == 0
    assert f"{tree.count(params):,} parameters in float32" in capsys.readouterr().out
    export = [
        "export",
        "--model_path",
        str(tmp_path / "in"),
        "--output_dir",
        str(tmp_path / "out"),
        "--dtype",
        "bfloat16",
    ]
    assert main(export) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert theirs.dtype == torch.bfloat16
    ours = language_model.load(tmp_path / "out")
    tokens = torch.arange(3, 15)[None]
    torch.testing.assert_close(
        ours.model.forward(ours.params, tokens), theirs(tokens).logits, rtol=0.1, atol=0.1
    )


def test_merged_adapters_equal_the_adapted_model_in_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(tmp_path, "sft", lora="conservative", learning_rate=0.05) == 0
    merge = ["merge", "--model_path", str(tmp_path / "sft"), "--output_dir", str(tmp_path / "whole")]
    assert main(merge) == 0
    card = ModelCard.load(tmp_path / "sft" / "final_model" / "README.md")
    assert card.data.library_name == "peft"
    assert "| adapters | LoRA of PEFT, rank" in card.text
    assert "| rows, train |" in card.text
    assert not (tmp_path / "whole" / "README.md").exists()  # the card is that of the adapters
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    ours = language_model.load(tmp_path / "sft")
    tokens = torch.arange(3, 15)[None]
    with torch.no_grad():
        expected = theirs(tokens).logits
    torch.testing.assert_close(ours.model.forward(ours.params, tokens), expected, rtol=1e-4, atol=1e-5)
    capsys.readouterr()
    assert main(merge) == 2
    assert "exists already; choose another, so that nothing is lost" in capsys.readouterr().err


def test_the_card_is_copied_with_a_model_that_stays_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    card = language_model.save(tmp_path / "model", make_model()) / "README.md"
    card.write_text("# Mine")
    export = ["export", "--model_path", str(tmp_path / "model"), "--output_dir"]
    assert main([*export, str(tmp_path / "same")]) == 0
    assert (tmp_path / "same" / "README.md").read_text() == "# Mine"
    assert "not copied" not in capsys.readouterr().out
    for name, flags in (("half", ["--dtype", "bfloat16"]), ("flax", ["--format", "msgpack"])):
        assert main([*export, str(tmp_path / name), *flags]) == 0
        assert not (tmp_path / name / "README.md").exists()
        assert f"{card} was not copied: it describes the model before this change" in capsys.readouterr().out


def test_the_card_of_a_gguf_export_stays_beside_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config, params = make_params()
    file = write(tmp_path / "model.gguf", config, params, tokenizer())
    assert main(["import", "--model_path", str(file), "--output_dir", str(tmp_path / "in")]) == 0
    export = ["export", "--model_path", str(tmp_path / "in"), "--format", "gguf", "--output_dir"]
    capsys.readouterr()
    assert main([*export, str(tmp_path / "without")]) == 0
    assert "README.md" not in capsys.readouterr().out
    card = tmp_path / "in" / "README.md"
    card.write_text("# Mine")
    assert main([*export, str(tmp_path / "with")]) == 0
    out = capsys.readouterr().out
    assert f"{card} stays where it is: a GGUF file has no model card" in out
    assert "was not copied" not in out
    assert not (tmp_path / "with" / "README.md").exists()


def test_merging_a_model_without_adapters_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_model(tmp_path)
    assert (
        main(["merge", "--model_path", str(tmp_path / "model"), "--output_dir", str(tmp_path / "out")]) == 2
    )
    assert (
        "holds no adapters (adapter_config.json); a whole model has nothing to merge"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
