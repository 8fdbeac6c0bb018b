"""`to_json`: Hugging Face and `from_json` load the written tokenizer.json and give the same ids."""

from __future__ import annotations

import json
import sysconfig
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from tokenizers import Tokenizer as HuggingFaceTokenizer

from data_pipes.tokenizer import AddedToken, Tokenizer, fingerprint, from_json, from_spec, to_json, train
from data_pipes.tokenizer.split import PATTERNS
from data_pipes.tokenizer.step import NFC
from tests.data_pipes.tokenizer.samples import SAMPLES, texts

CORPUS = [*SAMPLES, (Path(sysconfig.get_path("stdlib")) / "heapq.py").read_text(encoding="utf-8")]
BASE = train(CORPUS, 700).spec
ADDED = (
    *BASE.added_tokens,
    AddedToken("<think>", 700, special=False),
    AddedToken("e\u0301t", 701, False, True),
)
SPECS = {
    **{name: train(CORPUS, 700, pattern=name).spec for name in PATTERNS},
    "nfc": train(CORPUS, 700, nfc=True).spec,
    "ignore_merges": replace(BASE, merges=BASE.merges[::2], vocab=BASE.vocab, ignore_merges=True),
    "added": replace(BASE, added_tokens=ADDED, normalizer=NFC),
    "template": replace(BASE, prefix=(0, 1), suffix=(2,)),
    "characters": replace(train(CORPUS, 900, kind="character").spec, pattern="llama3"),
    "characters without words": replace(train(CORPUS[-1:], 200, kind="character").spec, pattern=r"[\s\S]+"),
}  # fmt: skip
OURS = {name: from_spec(spec) for name, spec in SPECS.items()}
PEERS = {name: HuggingFaceTokenizer.from_str(to_json(tokenizer)) for name, tokenizer in OURS.items()}
BYTE_LEVEL = [name for name, spec in SPECS.items() if spec.kind == "byte_level"]


@pytest.mark.parametrize("name", SPECS)
def test_hugging_face_gives_the_same_ids(name: str) -> None:
    ours, peer = OURS[name], PEERS[name]
    for text in CORPUS:
        if SPECS[name].kind == "character":
            text = "".join(c for c in text if c in SPECS[name].vocab)
        for template in (False, True):
            assert (
                ours.encode(text, special="all", template=template)
                == peer.encode(text, add_special_tokens=template).ids
            )
        ids = ours.encode(text)
        if name != "added":  # Hugging Face decodes "é" of an added token as the byte 0xE9, to "�"
            assert ours.decode(ids) == peer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", BYTE_LEVEL)
@given(text=texts(unicode_3_2=True))
def test_hugging_face_gives_the_same_ids_on_any_text(name: str, text: str) -> None:
    ids = OURS[name].encode(text, special="all")
    assert ids == PEERS[name].encode(text, add_special_tokens=False).ids
    assert OURS[name].decode(ids) == (unicodedata.normalize("NFC", text) if SPECS[name].normalizer else text)


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_hugging_face_gives_the_same_ids_for_special_tokens_as_text(name: str) -> None:
    peer = HuggingFaceTokenizer.from_str(to_json(OURS[name]))
    peer.encode_special_tokens = True
    for text in CORPUS:
        assert OURS[name].encode(text) == peer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", SPECS)
def test_a_written_file_is_read_as_the_same_spec(name: str) -> None:
    assert from_json(to_json(OURS[name])).spec == SPECS[name]
    assert from_json(PEERS[name].to_str()).spec == SPECS[name]


def test_a_custom_pattern_is_read_with_any_pattern(trained_tokenizer: Tokenizer) -> None:
    custom = from_spec(replace(trained_tokenizer.spec, pattern=r"\w+|\W"))
    assert from_json(to_json(custom), any_pattern=True).spec == custom.spec
    peer = HuggingFaceTokenizer.from_str(to_json(custom))
    assert all(custom.encode(text, special="all") == peer.encode(text).ids for text in SAMPLES[:4])


def test_the_file_has_one_line_per_token_and_merges_as_pairs(trained_tokenizer: Tokenizer) -> None:
    text = to_json(trained_tokenizer)
    assert len(text.splitlines()) > 1500
    content = json.loads(text)
    assert content["model"]["merges"][0] == list(trained_tokenizer.spec.merges[0])
    assert list(content["model"]["vocab"].values()) == list(range(1500))


def test_fingerprints_differ_where_specs_do() -> None:
    assert len({fingerprint(tokenizer) for tokenizer in OURS.values()}) == len(OURS)
    assert fingerprint(from_spec(replace(BASE))) == fingerprint(OURS["qwen2"])
