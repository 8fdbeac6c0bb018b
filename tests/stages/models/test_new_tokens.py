"""New tokens have the ids and the rows that transformers gives them, and a base model learns ChatML with
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from data_pipes import tokenizer as tokenizers
from pure import random
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from stages.cli.main import main
from stages.models import language_model, new_tokens
from stages.models.language_model import Pretrained
from tests.stages.small_stages import write_rows

NEW = ("<|im_start|>", "<|im_end|>")


def base(**changes: Any) -> Pretrained:
    """A model that has never seen a control token but the end of a document."""
    tokenizer = tokenizers.train(["the base never saw a chat"] * 3, 280, special_tokens=["<|endoftext|>"])
    fields = {
        "vocab_size": tokenizers.vocabulary_size(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 320,
        "eos_token_id": 0,
    }
    model = transformer(ModelConfig(**(fields | changes)))
    return Pretrained(model, model.init(random.key(0)), tokenizer)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("multiple", [1, 64])
def test_ids_rows_and_logits_are_those_of_transformers(tied: bool, multiple: int, tmp_path: Path) -> None:
    made = base(tie_word_embeddings=tied)
    language_model.save(tmp_path / "base", made)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path / "base")
    peer.add_special_tokens({"extra_special_tokens": list(NEW)})
    theirs.resize_token_embeddings(len(peer), pad_to_multiple_of=None if multiple == 1 else multiple)
    more = new_tokens.add_tokens(made, NEW, multiple=multiple)
    ids = peer(f"a{NEW[0]}b{NEW[1]}", add_special_tokens=False)["input_ids"]
    assert more.tokenizer.encode(f"a{NEW[0]}b{NEW[1]}", special="all") == ids
    with torch.no_grad():
        right = theirs(torch.tensor([ids])).logits
        ours = more.model.forward(more.params, torch.tensor([ids]))
    torch.testing.assert_close(ours, right, atol=1e-3, rtol=1e-3)
    assert set(more.params) == set(made.params)


def test_the_folder_loads_in_transformers_with_the_same_ids(tmp_path: Path) -> None:
    more = new_tokens.add_tokens(base(), NEW, multiple=8)
    language_model.save(tmp_path / "more", more)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path / "more")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "more")
    text = "x<|im_start|>user\nhello<|im_end|>\n"
    ids = more.tokenizer.encode(text, special="all")
    assert peer(text, add_special_tokens=False)["input_ids"] == ids
    assert peer.decode(ids, skip_special_tokens=True) == more.tokenizer.decode(ids, skip_special=True)
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits
    torch.testing.assert_close(
        logits, more.model.forward(more.params, torch.tensor([ids])), atol=1e-5, rtol=1e-5
    )


def test_padded_rows_are_used_first_and_known_tokens_stay() -> None:
    made = base(vocab_size=300)
    more = new_tokens.add_tokens(made, ["<|endoftext|>", "base", *NEW])
    size = tokenizers.vocabulary_size(made.tokenizer)
    found = tokenizers.special_tokens(more.tokenizer)
    assert more.model.config.vocab_size == 300
    assert found["<|endoftext|>"] == 0
    assert [found[token] for token in NEW] == [max(found.values()) - 1, max(found.values())]
    old, new = made.params["embedding"], more.params["embedding"]
    changed = (old != new).any(1).nonzero()[:, 0].tolist()
    assert changed == sorted({found[token] for token in ("base", *NEW)} - {*range(size)})
    torch.testing.assert_close(new[changed[0]], old[:size].mean(0))


@pytest.mark.parametrize(("tokens", "multiple"), [(["a", "a"], 1), ([""], 1), (["x"], 0)])
def test_invalid_tokens_are_refused(tokens: list[str], multiple: int) -> None:
    with pytest.raises(ValueError, match="expected tokens that are not empty, each once, and a multiple"):
        new_tokens.add_tokens(base(), tokens, multiple=multiple)


def test_a_base_model_learns_chatml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    language_model.save(tmp_path / "base", base())
    files = write_rows(tmp_path)
    flags = [
        "sft",
        "--model_path",
        str(tmp_path / "base"),
        "--data_path",
        str(files["sft"]),
        "--max_steps",
        "2",
        "--no_compile",
        "--output_dir",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]
    assert main(flags) == 2
    assert main([*flags, "--add_tokens", *NEW, "--lora", "balanced"]) == 2
    assert "the rows of new tokens would never be trained" in capsys.readouterr().err
    assert main([*flags, "--vocabulary_multiple", "8"]) == 2
    assert main([*flags, "--add_tokens", *NEW, "--vocabulary_multiple", "32"]) == 0
    assert "new tokens: <|im_start|> = " in capsys.readouterr().out
    trained = language_model.load(tmp_path / "run")
    assert trained.model.config.vocab_size % 32 == 0
    rows = [
        trained.params["embedding"][i] for i in map(tokenizers.special_tokens(trained.tokenizer).get, NEW)
    ]
    assert not torch.equal(*rows)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "final_model")
    assert peer.convert_tokens_to_ids(list(NEW)) == [
        tokenizers.special_id(trained.tokenizer, token) for token in NEW
    ]


def test_import_adds_tokens(tmp_path: Path) -> None:
    language_model.save(tmp_path / "base", base())
    arguments = ["import", "--model_path", str(tmp_path / "base"), "--output_dir", str(tmp_path / "more")]
    assert main([*arguments, "--add_tokens", *NEW]) == 0
    assert set(NEW) <= set(tokenizers.special_tokens(language_model.load(tmp_path / "more").tokenizer))
