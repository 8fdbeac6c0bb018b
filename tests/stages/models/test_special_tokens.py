"""`stages.models.special_tokens`: names of special tokens and stop ids in a model's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from data_pipes.tokenizer.spec import vocabulary_size
from stages.models import language_model, special_tokens
from stages.models.special_tokens import NONE, SpecialTokens
from tests.outside import written
from tests.stages.models.test_language_model import make_model

BEGIN, END_OF_TEXT, END_OF_TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"


def test_a_new_model_names_its_special_tokens_by_the_ids_of_its_config() -> None:
    pretrained = make_model()
    assert pretrained.special == NONE
    assert language_model.named_tokens(pretrained) == {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}


def test_a_bos_token_missing_in_the_tokenizer_config_is_not_taken_from_the_config(tmp_path: Path) -> None:
    pretrained = language_model.load(written.model(tmp_path, eos_token=END_OF_TURN))
    assert pretrained.model.config.bos_token_id == 0
    assert language_model.named_tokens(pretrained) == {"eos_token": END_OF_TURN}


def test_saving_a_loaded_model_keeps_every_field_of_its_files(tmp_path: Path) -> None:
    generation = {"eos_token_id": [1, 4], "top_p": 0.9, "temperature": 0.6, "do_sample": True}
    fields = {
        "bos_token": BEGIN,
        "eos_token": END_OF_TURN,
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


def test_a_new_token_gets_the_next_id_and_a_known_token_keeps_its_id() -> None:
    tokenizer = make_model().tokenizer
    size, known = vocabulary_size(tokenizer), tokenizer.spec.vocab[100]
    more = special_tokens.with_tokens(tokenizer, ["<|a|>", known, "<|pad|>", "<|a|>"])
    assert special_tokens.id_of(more, "<|a|>") == size
    assert special_tokens.id_of(more, known) == special_tokens.id_of(tokenizer, known) == 100
    assert more.encode("<|a|>", special="all") == [size]
    assert special_tokens.with_tokens(tokenizer, ["<|pad|>"]) is tokenizer
    assert special_tokens.id_of(tokenizer, "nothing of the kind") is None


def test_generation_config_overrides_the_stop_ids_of_the_config() -> None:
    assert special_tokens.generation_ends(SpecialTokens(config_ends=(3,))) == (3,)
    assert special_tokens.generation_ends(
        SpecialTokens(config_ends=(3,), generation={"eos_token_id": [5]})
    ) == (5,)
    assert special_tokens.generation_ends(SpecialTokens(config_ends=(3,), turn_ends=(7,))) == (3, 7)


@pytest.mark.parametrize("value", [True, "2", 2.0, [[1]], {"a": 1}, -2])
def test_an_invalid_stop_id_is_refused(value: object) -> None:
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
def test_a_tokenizer_field_of_another_type_is_refused_by_name(
    fields: dict, message: str, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json: {message}"):
        special_tokens.read(tmp_path, make_model().tokenizer, 300)


def test_a_fine_tuned_model_keeps_the_special_tokens_of_its_base(tmp_path: Path) -> None:
    base = language_model.load(
        written.model(tmp_path, bos_token=BEGIN, eos_token=END_OF_TURN, chat_template="{{ 1 }}")
    )
    bare = language_model.Pretrained(base.model, base.params, base.tokenizer)
    assert language_model.with_tokenizer_of(bare, base) == base
    assert language_model.with_tokenizer_of(make_model(), base).special == NONE


def test_extra_special_tokens_are_saved_under_the_name_that_transformers_4_and_5_read(
    tmp_path: Path,
) -> None:
    """transformers 4 fails at a list in `extra_special_tokens`; transformers 5 also reads the older name."""
    language_model.save(tmp_path / "plain", make_model())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "plain")
    theirs.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    theirs.save_pretrained(tmp_path / "plain")
    assert "extra_special_tokens" in json.loads((tmp_path / "plain" / "tokenizer_config.json").read_text())
    language_model.save(tmp_path / "again", language_model.load(tmp_path / "plain"))
    fields = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert fields["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert "extra_special_tokens" not in fields
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert loaded.extra_special_tokens == theirs.extra_special_tokens


def test_paths_of_the_machine_that_saved_a_tokenizer_are_not_written() -> None:
    read = {"name_or_path": "/srv/ada/x", "special_tokens_map_file": "/srv/ada/y", "padding_side": "left"}
    assert special_tokens.tokenizer_fields(SpecialTokens(tokenizer=read), 8) == {"padding_side": "left"}
