"""Names of special tokens and ids of ends, read from a model's files and written back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from data_pipes.tokenizer.spec import vocabulary_size
from stages.models import language_model, special_tokens
from stages.models.special_tokens import NONE, SpecialTokens
from tests.outside import written
from tests.stages.models.test_language_model import make

BEGIN, END, TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"


def test_a_model_that_was_made_here_names_its_tokens_by_the_ids_of_its_configuration() -> None:
    made = make()
    assert made.special == NONE
    assert language_model.named_tokens(made) == {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}


def test_a_null_bos_token_stays_null_whatever_the_configuration_says(tmp_path: Path) -> None:
    made = language_model.load(written.model(tmp_path, eos_token=TURN))
    assert made.model.config.bos_token_id == 0
    assert language_model.named_tokens(made) == {"eos_token": TURN}


def test_every_field_is_kept_and_the_weights_alone_change(tmp_path: Path) -> None:
    generation = {"eos_token_id": [1, 4], "top_p": 0.9, "temperature": 0.6, "do_sample": True}
    fields = {
        "bos_token": BEGIN,
        "eos_token": TURN,
        "add_bos_token": True,
        "legacy": False,
        "padding_side": "left",
        "additional_special_tokens": ["<|end_header_id|>"],
        "model_max_length": 77,
    }
    written.model(
        tmp_path / "a",
        config={"eos_token_id": [1, 4]},
        generation=generation,
        files={"tokenizer_config.json": fields},
    )
    again = language_model.save(tmp_path / "b", language_model.load(tmp_path / "a"))
    read = {
        name: json.loads((again / name).read_text())
        for name in ("config.json", "generation_config.json", "tokenizer_config.json")
    }
    assert read["config.json"]["eos_token_id"] == [1, 4]
    assert read["generation_config.json"] == generation
    assert fields.items() <= read["tokenizer_config.json"].items()
    assert language_model.load(again).special.config_ends == (1, 4)


def test_a_new_token_gets_the_next_id_and_one_of_the_vocabulary_keeps_its_own() -> None:
    tokenizer = make().tokenizer
    size, known = vocabulary_size(tokenizer), tokenizer.spec.vocab[100]
    more = special_tokens.with_tokens(tokenizer, ["<|a|>", known, "<|pad|>", "<|a|>"])
    assert special_tokens.id_of(more, "<|a|>") == size
    assert special_tokens.id_of(more, known) == special_tokens.id_of(tokenizer, known) == 100
    assert more.encode("<|a|>", special="all") == [size]
    assert special_tokens.with_tokens(tokenizer, ["<|pad|>"]) is tokenizer
    assert special_tokens.id_of(tokenizer, "nothing of the kind") is None


def test_transformers_stops_at_the_file_for_generation_where_there_is_one() -> None:
    assert special_tokens.generation_ends(SpecialTokens(config_ends=(3,))) == (3,)
    assert special_tokens.generation_ends(
        SpecialTokens(config_ends=(3,), generation={"eos_token_id": [5]})
    ) == (5,)
    assert special_tokens.generation_ends(SpecialTokens(config_ends=(3,), turn_ends=(7,))) == (3, 7)


@pytest.mark.parametrize("value", [True, "2", 2.0, [[1]], {"a": 1}, -2])
def test_an_end_is_an_id(value: object) -> None:
    with pytest.raises(ValueError, match=r"config\.json: eos_token_id must be an id below 9"):
        special_tokens.end_ids(value, 9, "config.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"extra_special_tokens": 5}, "extra_special_tokens must be a list"),
        ({"extra_special_tokens": [5]}, "extra_special_tokens must be a text or an object"),
        ({"eos_token": {"contents": "a"}}, "eos_token must be a text or an object"),
        ({"added_tokens_decoder": {"a": {"content": "b"}}}, "added_tokens_decoder must be a table of ids"),
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder must be a table of ids"),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(fields: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json: {message}"):
        special_tokens.read(tmp_path, make().tokenizer, 300)


def test_a_model_that_was_trained_further_keeps_its_words(tmp_path: Path) -> None:
    base = language_model.load(
        written.model(tmp_path, bos_token=BEGIN, eos_token=TURN, chat_template="{{ 1 }}")
    )
    bare = language_model.Pretrained(base.model, base.params, base.tokenizer)
    assert language_model.with_tokenizer_of(bare, base) == base
    assert language_model.with_tokenizer_of(make(), base).special == NONE


def test_further_tokens_are_written_by_the_name_that_both_generations_of_transformers_read(
    tmp_path: Path,
) -> None:
    """transformers 4 stops at a list under `extra_special_tokens`; transformers 5 takes it from the older
    name."""
    language_model.save(tmp_path / "plain", make())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "plain")
    theirs.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    theirs.save_pretrained(tmp_path / "plain")
    assert "extra_special_tokens" in json.loads((tmp_path / "plain" / "tokenizer_config.json").read_text())
    language_model.save(tmp_path / "again", language_model.load(tmp_path / "plain"))
    written = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert written["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert "extra_special_tokens" not in written
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert read.extra_special_tokens == theirs.extra_special_tokens
