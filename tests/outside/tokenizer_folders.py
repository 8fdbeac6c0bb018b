"""Tokenizer folders: tokenizer.json together with tokenizer_config.json is read as by transformers."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer

from data_pipes.tokenizer import load
from stages.models import special_tokens
from tests.outside.form import Form
from tests.outside.tokenizers import byte_level, llama2

TEXTS = ("a<e>b", " a <e> b </s>c", "<f><g>x", "  <new> y", "a <tok> b", "hello world  <s>")
ROWS = 4096


def _token(content: str, **flags: bool) -> dict[str, Any]:
    """An entry of added_tokens_decoder."""
    plain = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": content, **plain, "special": True, **flags}


def _write(folder: Path, fields: Mapping[str, Any], make: Any = None) -> None:
    """Write a tokenizer with the added token <e>, which is not special, and tokenizer_config.json.

    Keys of added_tokens_decoder: "N" stands for the id of <e>, "N1" for the next, and so on.
    """
    peer = make() if make else byte_level(added=(AddedToken("<e>", normalized=True, lstrip=True),))
    peer.save(str(folder / "tokenizer.json"))
    first = peer.token_to_id("<e>") or 0
    table = {
        str(first + int(key[1:] or 0) if key.startswith("N") else key): token
        for key, token in fields.get("added_tokens_decoder", {}).items()
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **fields}
    config |= {"added_tokens_decoder": table} if "added_tokens_decoder" in fields else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def _theirs(fields: Mapping[str, Any], folder: Path, make: Any = None) -> list[Any]:
    _write(folder, fields, make)
    peer = AutoTokenizer.from_pretrained(folder)
    rows = [peer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    return [
        rows,
        *(
            [peer.decode(row, skip_special_tokens=skip_special) for row in rows]
            for skip_special in (False, True)
        ),
        len(peer),
    ]


def _ours(folder: Path) -> list[Any]:
    _, tokenizer = special_tokens.read(folder, load(folder), ROWS)
    rows = [tokenizer.encode(text, special="all") for text in TEXTS]
    size = max([len(tokenizer.spec.vocab), *(token.id + 1 for token in tokenizer.spec.added_tokens)])
    return [
        rows,
        *(
            [tokenizer.decode(row, skip_special=skip_special) for row in rows]
            for skip_special in (False, True)
        ),
        size,
    ]


RIGHT: dict[str, dict[str, Any]] = {
    "nothing more": {},
    "a named token that was not special": {"eos_token": "<e>"},
    "a named token as an object": {"eos_token": {"content": "<e>", "rstrip": True, "__type": "AddedToken"}},
    "a table with other flags": {"added_tokens_decoder": {"N": _token("<e>", rstrip=True)}},
    "a table with new tokens": {
        "added_tokens_decoder": {
            "N": _token("<e>", special=False),
            "N1": _token("<f>", special=False, lstrip=True),
            "N2": _token("<g>", rstrip=True),
        },
        "eos_token": "<f>",
    },
    "a table without the named token": {
        "added_tokens_decoder": {"2": _token("</s>", special=False)},
        "eos_token": "<e>",
    },
    "a table with other flags of a special token": {
        "added_tokens_decoder": {"2": _token("</s>", lstrip=True)}
    },
    "further tokens": {"extra_special_tokens": ["<e>", "<new>"]},
    "cleaning up of spaces, which BPE ignores": {"clean_up_tokenization_spaces": True},
    "a prefix space that is null": {"add_prefix_space": None},
    "a prefix space as in tokenizer.json": {"add_prefix_space": False},
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a table with another id": (
        {"added_tokens_decoder": {"N4": _token("<e>")}},
        r"tokenizer_config.json: added_tokens_decoder.\d+ is '<e>', which must have id \d+",
    ),
    "a table with a gap": (
        {"added_tokens_decoder": {"N9": _token("<f>")}},
        r"added_tokens_decoder.\d+ is '<f>', which must have id \d+, the next free one",
    ),
    "a table with a flag that is no flag": (
        {"added_tokens_decoder": {"N": {"content": "<e>", "lstrip": 1}}},
        "flags that are",
    ),
    "a special token that is normalized only here": (
        {"added_tokens_decoder": {"2": _token("</s>", normalized=True)}},
        "'</s>', a special token that tokenizer.json gives another `normalized`",
    ),
    "a prefix space that tokenizer.json lacks": (
        {"add_prefix_space": True},
        "add_prefix_space is true, but tokenizer.json",
    ),
    "cleaning up that corrupts": (
        {"clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True},
        "cleaning up spaces of a BPE tokenizer is not supported",
    ),
}


def _write_gpt2_files(folder: Path) -> None:
    """Write only vocab.json and merges.txt, as GPT-2 has."""
    peer = byte_level()
    peer.model.save(str(folder))


def _write_sentencepiece_file(folder: Path) -> None:
    """Write only tokenizer.model, as SentencePiece does."""
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")


FORMS = (
    Form("tokenizer folder", "vocab.json and merges.txt alone", "tokenizers", _write_gpt2_files, _ours,
         r"has vocab.json and merges.txt, but no tokenizer.json; .*AutoTokenizer.from_pretrained"),
    Form("tokenizer folder", "tokenizer.model alone", "sentencepiece", _write_sentencepiece_file, _ours,
         r"has tokenizer.model, but no tokenizer.json; .*AutoTokenizer.from_pretrained"),
    *(Form("tokenizer folder", name, "transformers", functools.partial(_theirs, fields), _ours)
      for name, fields in RIGHT.items()),
    Form("tokenizer folder", "Llama 2 with a prefix space", "transformers",
         functools.partial(_theirs, {"add_prefix_space": True}, make=llama2), _ours),
    Form("tokenizer folder", "Llama 2 without its prefix space", "transformers",
         functools.partial(_write, fields={"add_prefix_space": False}, make=llama2), _ours, "add_prefix_space is f"),
    *(Form("tokenizer folder", name, "transformers", functools.partial(_write, fields=fields), _ours, message)
      for name, (fields, message) in REFUSED.items()),
)  # fmt: skip
