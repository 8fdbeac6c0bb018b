"""The model's configuration from flags; an error says which values are valid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipes import tokenizer as tokenizers
from pure.config import preset
from pure.interop import hf
from stages.models import language_model
from stages.run import model_config
from tests.stages.models.test_language_model import make_model
from tests.stages.small import SHAPE, write_config


def test_a_config_is_a_preset_or_a_json_file(tmp_path: Path) -> None:
    assert model_config.read_config(None, None) == preset("tiny_config")
    assert model_config.read_config("qwen3_0.6b", None) == preset("qwen3_0.6b")
    read = model_config.read_config(str(write_config(tmp_path / "a.json")), None)
    assert {name: getattr(read, name) for name in SHAPE} == SHAPE


def test_a_hugging_face_config_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(hf.to_hf_config(preset("smollm2_135m"))))
    assert model_config.read_named_config(str(path)) == preset("smollm2_135m")


def test_a_model_brings_its_own_config(tmp_path: Path) -> None:
    small_model = make_model()
    language_model.save(tmp_path / "model", small_model)
    model, same, other = str(tmp_path / "model"), tmp_path / "same.json", tmp_path / "other.json"
    assert model_config.read_config(None, model) == small_model.model.config
    fields = {name: value for name, value in vars(small_model.model.config).items() if value is not None}
    same.write_text(json.dumps(fields))
    assert model_config.read_config(str(same), model) == small_model.model.config
    other.write_text(json.dumps(fields | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="differ: num_hidden_layers 2 and 3; omit --config"):
        model_config.read_config(str(other), model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("configs/tiny_config.py", r"Python files are not run as configuration; type --config tiny_config$"),
        ("my_own.py", r"not run as configuration; the presets are tiny_config, .* write a JSON file"),
        ("tiny_confg", "did you mean 'tiny_config'"),
        ("gpt4", "expected a preset's name or a file that ends in .json; the presets are"),
        ("nothing.json", "there is no such file"),
    ],
)
def test_an_invalid_config_is_refused_with_the_fix(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"--config {name}: .*{message}|--config {name}: {message}"):
        model_config.read_named_config(name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 3}, "hidden_size 16 is not divisible by num_attention_heads 3"),
        ({"num_key_value_heads": 3, "num_attention_heads": 4}, "is not divisible by num_key_value_heads 3"),
        ({"hidden_sise": 16}, "unknown field 'hidden_sise'; did you mean 'hidden_size'"),
        ({"vocab_size": 0}, "vocab_size: expected a whole number of at least 1, got 0"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"rope_theta": "big"}, "rope_theta"),
    ],
)
def test_a_mistake_in_a_config_file_is_named(fields: dict, message: str, tmp_path: Path) -> None:
    path = write_config(tmp_path / "a.json", **fields)
    with pytest.raises(ValueError, match=rf"--config .*a\.json: .*{message}"):
        model_config.read_named_config(str(path))
    path.write_text("{,}")
    with pytest.raises(ValueError, match=r"--config .*a\.json: not valid JSON, line 1"):
        model_config.read_named_config(str(path))


def test_special_token_ids_come_from_the_tokenizer() -> None:
    tokenizer = tokenizers.train(["low lower"], 270)
    special = tokenizers.special_tokens(tokenizer)
    read = model_config.fit_to_tokenizer(preset("tiny_config"), tokenizer, name="--config tiny_config")
    assert (read.eos_token_id, read.pad_token_id) == (special["<|endoftext|>"], special["<|pad|>"])
    with pytest.raises(
        ValueError, match=r"the tokenizer has \d+ ids, but --config x has vocab_size 200 only"
    ):
        model_config.fit_to_tokenizer(preset("tiny_config", vocab_size=200), tokenizer, name="--config x")


def test_vocab_size_shrinks_to_the_tokenizer() -> None:
    tokenizer = tokenizers.train(["low lower"], 270)
    size, config = tokenizers.vocabulary_size(tokenizer), preset("tiny_config", bos_token_id=4000)
    read = model_config.fit_to_tokenizer(config, tokenizer, name="--config tiny_config", shrink=True)
    assert (read.vocab_size, read.bos_token_id) == (320, None)
    message = model_config.describe_vocabulary(config, read, tokenizer, name="--config tiny_config")
    assert message == (
        f"vocabulary: the tokenizer has {size} ids, so the model has 320 rows (a multiple of 64), "
        "not the 4,096 of --config tiny_config"
    )
    exact = preset("tiny_config", vocab_size=size)
    assert model_config.fit_to_tokenizer(exact, tokenizer, name="", shrink=True).vocab_size == size
    assert model_config.describe_vocabulary(exact, exact, tokenizer, name="") is None


def test_the_vocab_size_of_a_file_or_a_model_is_kept_and_reported() -> None:
    tokenizer = tokenizers.train(["low lower"], 270)
    config = preset("tiny_config")
    read = model_config.fit_to_tokenizer(config, tokenizer, name="--config a.json")
    assert read.vocab_size == 4096
    assert "4,096 rows" in (
        model_config.describe_vocabulary(config, read, tokenizer, name="--config a.json") or ""
    )
    assert model_config.may_shrink_vocabulary(None, None)
    assert model_config.may_shrink_vocabulary("tiny_config", None)
    assert not model_config.may_shrink_vocabulary("a.json", None)
    assert not model_config.may_shrink_vocabulary(None, "model")
