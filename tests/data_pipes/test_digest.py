"""Digests are SHA-256 of the documented bytes; saved files contain them, so their values never change."""

from __future__ import annotations

import hashlib
import json

from data_pipes.digest import hash_blocks, hash_bytes, hash_fraction, hash_json, short_digest


def test_blocks_are_hashed_as_if_joined() -> None:
    whole = hashlib.sha256(b"one two").hexdigest()
    assert hash_blocks([b"one", memoryview(b" two"), b""]) == hash_bytes(b"one two") == whole


def test_the_hash_of_json_ignores_the_order_of_keys() -> None:
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1}) != hash_json({"a": 2, "b": 1})
    value = {"b": [1.5, None, "é"], "a": {}}
    text = json.dumps(value, sort_keys=True)
    assert text == '{"a": {}, "b": [1.5, null, "\\u00e9"]}'
    assert hash_json(value) == hashlib.sha256(text.encode()).hexdigest()


def test_a_hash_fraction_is_the_first_four_bytes_of_the_digest() -> None:
    for text in ("enum.py", "", "é"):
        first = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        assert hash_fraction(text) * 2**32 == first


def test_a_short_digest_has_32_characters() -> None:
    assert short_digest("ab" * 32) == "sha256:" + "ab" * 16
