"""`new_tokens.add_tokens` gives new tokens the ids and embedding rows that transformers gives them."""

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

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")


def make_base(**changes: Any) -> Pretrained:
    """A base model whose only special token is <|endoftext|>."""
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
def test_ids_and_logits_after_adding_tokens_equal_transformers(
    tied: bool, multiple: int, tmp_path: Path
) -> None:
    base = make_base(tie_word_embeddings=tied)
    language_model.save(tmp_path / "base", base)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "base")
    their_tokenizer.add_special_tokens({"extra_special_tokens": list(CHATML_TOKENS)})
    theirs.resize_token_embeddings(
        len(their_tokenizer), pad_to_multiple_of=None if multiple == 1 else multiple
    )
    extended = new_tokens.add_tokens(base, CHATML_TOKENS, multiple=multiple)
    ids = their_tokenizer(f"a{CHATML_TOKENS[0]}b{CHATML_TOKENS[1]}", add_special_tokens=False)["input_ids"]
    assert extended.tokenizer.encode(f"a{CHATML_TOKENS[0]}b{CHATML_TOKENS[1]}", special="all") == ids
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits
        ours = extended.model.forward(extended.params, torch.tensor([ids]))
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-3)
    assert set(extended.params) == set(base.params)


def test_a_saved_model_with_new_tokens_has_the_same_ids_in_transformers(tmp_path: Path) -> None:
    extended = new_tokens.add_tokens(make_base(), CHATML_TOKENS, multiple=8)
    language_model.save(tmp_path / "more", extended)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "more")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "more")
    text = "x<|im_start|>user\nhello<|im_end|>\n"
    ids = extended.tokenizer.encode(text, special="all")
    assert their_tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    assert their_tokenizer.decode(ids, skip_special_tokens=True) == extended.tokenizer.decode(
        ids, skip_special=True
    )
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits
    torch.testing.assert_close(
        logits, extended.model.forward(extended.params, torch.tensor([ids])), atol=1e-5, rtol=1e-5
    )


def test_padding_rows_are_used_first_and_known_tokens_keep_their_ids() -> None:
    base = make_base(vocab_size=300)
    extended = new_tokens.add_tokens(base, ["<|endoftext|>", "base", *CHATML_TOKENS])
    size = tokenizers.vocabulary_size(base.tokenizer)
    found = tokenizers.special_tokens(extended.tokenizer)
    assert extended.model.config.vocab_size == 300
    assert found["<|endoftext|>"] == 0
    assert [found[token] for token in CHATML_TOKENS] == [max(found.values()) - 1, max(found.values())]
    old, new = base.params["embedding"], extended.params["embedding"]
    changed = (old != new).any(1).nonzero()[:, 0].tolist()
    assert changed == sorted({found[token] for token in ("base", *CHATML_TOKENS)} - {*range(size)})
    torch.testing.assert_close(new[changed[0]], old[:size].mean(0))


@pytest.mark.parametrize(("tokens", "multiple"), [(["a", "a"], 1), ([""], 1), (["x"], 0)])
def test_invalid_tokens_are_refused(tokens: list[str], multiple: int) -> None:
    with pytest.raises(ValueError, match="expected tokens that are not empty, each once, and a multiple"):
        new_tokens.add_tokens(make_base(), tokens, multiple=multiple)


def test_sft_of_a_base_model_with_added_chatml_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    language_model.save(tmp_path / "base", make_base())
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
    assert main([*flags, "--add_tokens", *CHATML_TOKENS, "--lora", "balanced"]) == 2
    assert "the rows of new tokens would never be trained" in capsys.readouterr().err
    assert main([*flags, "--vocabulary_multiple", "8"]) == 2
    assert main([*flags, "--add_tokens", *CHATML_TOKENS, "--vocabulary_multiple", "32"]) == 0
    assert "new tokens: <|im_start|> = " in capsys.readouterr().out
    trained = language_model.load(tmp_path / "run")
    assert trained.model.config.vocab_size % 32 == 0
    rows = [
        trained.params["embedding"][i]
        for i in map(tokenizers.special_tokens(trained.tokenizer).get, CHATML_TOKENS)
    ]
    assert not torch.equal(*rows)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "final_model")
    assert their_tokenizer.convert_tokens_to_ids(list(CHATML_TOKENS)) == [
        tokenizers.special_id(trained.tokenizer, token) for token in CHATML_TOKENS
    ]


def test_import_adds_tokens_to_the_tokenizer(tmp_path: Path) -> None:
    language_model.save(tmp_path / "base", make_base())
    arguments = ["import", "--model_path", str(tmp_path / "base"), "--output_dir", str(tmp_path / "more")]
    assert main([*arguments, "--add_tokens", *CHATML_TOKENS]) == 0
    assert set(CHATML_TOKENS) <= set(
        tokenizers.special_tokens(language_model.load(tmp_path / "more").tokenizer)
    )
