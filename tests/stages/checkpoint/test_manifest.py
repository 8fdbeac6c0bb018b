"""`stages.checkpoint.manifest`: decoding restores what was encoded, and any damage is a ValueError."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.checkpoint import manifest
from stages.checkpoint.manifest import Manifest
from stages.checkpoint.records import LeafRecord


def example() -> Manifest:
    leaf = LeafRecord("params/w", "float32", [2], 8, "ab" * 32, "cd" * 32, [[12, 8]])
    recorded = manifest.make_manifest(
        3, 0.5, {"note": "ärger", "list": [1, {"a": None}]}, {"optimizer.learning_rate": "0.1"}
    )
    return recorded._replace(bytes=23, leaves=(leaf, leaf._replace(path="params/v", spans=[])))


def test_a_manifest_survives_encoding_and_is_plain_json() -> None:
    data = manifest.encode(example())
    assert manifest.decode(data) == example()
    body = json.loads(data)
    digest = hashlib.sha256(b"cd" * 32 + b"ab" * 32 + b"cd" * 32 + b"ab" * 32).hexdigest()
    assert body["files"] == {"state.msgpack": {"bytes": 23, "sha256_of_leaves": digest}}
    assert body["leaves"][0]["path"] == "params/w"
    assert body["environment"]["torch"]
    assert manifest.read(io.BytesIO(data)) == example()


def test_metadata_is_converted_to_json_by_make_manifest() -> None:
    recorded = manifest.make_manifest(0, math.nan, {2: (1, 2), 10: math.inf, "x": 0.1}, None)
    back = manifest.decode(manifest.encode(recorded))
    assert back.metadata == {"2": [1, 2], "10": math.inf, "x": 0.1}
    assert back.score is not None
    assert math.isnan(back.score)
    with pytest.raises(TypeError, match="metadata must be JSON: Object of type set is not JSON serializable"):
        manifest.make_manifest(0, None, {"x": {1}}, None)


def test_every_flipped_bit_is_refused() -> None:
    data = manifest.encode(example())
    for i in range(8 * len(data)):
        bad = bytearray(data)
        bad[i // 8] ^= 1 << i % 8
        with pytest.raises(ValueError):
            manifest.decode(bytes(bad))


def test_every_truncation_is_refused() -> None:
    data = manifest.encode(example())
    for n in range(len(data)):
        with pytest.raises(ValueError):
            manifest.decode(data[:n])


LEAF: Mapping[str, object] = example().leaves[0]._asdict()


def manifest_with(**changes: object) -> bytes:
    """An encoded manifest with other fields and the right checksum, as if it was forged."""
    body = json.loads(manifest.encode(example())) | changes
    body["sha256"] = manifest._digest(body)
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 4}, "format 4; this program reads formats 1 to 3"),
        ({"step": -1}, "whole and not negative"),
        ({"step": True}, "whole and not negative"),
        ({"files": {}}, "not a manifest"),
        ({"files": {"state.msgpack": {"bytes": 1.5}}}, "whole and not negative"),
        ({"files": {"state.msgpack": {"bytes": 7}}}, "do not cover the file"),
        ({"files": {"state.msgpack": {"bytes": 23}}}, "its text is not what encode"),
        ({"leaves": [LEAF | {"spans": [[15, 8]]}]}, "its text is not what encode"),
        ({"leaves": [LEAF | {"spans": [[15, 9]]}]}, "do not cover the file"),
        ({"leaves": [LEAF | {"spans": [[15, 8], [3, 8]]}]}, "do not cover the file"),
        ({"leaves": [LEAF | {"spans": [[15]]}]}, "spans must be pairs"),
        ({"leaves": [LEAF | {"spans": [[15, "8"]]}]}, "whole and not negative"),
        ({"leaves": [LEAF | {"shape": None}]}, "not a manifest"),
        ({"leaves": [LEAF | {"sha256": 3, "spans": [[15, 8]]}]}, "wrong type"),
        ({"leaves": [LEAF | {"dtype": 3, "spans": [[15, 8]]}]}, "wrong type"),
        ({"leaves": [{"path": "x"}]}, "not a manifest"),
        ({"leaves": 3}, "not a manifest"),
        ({"score": "low"}, "wrong type"),
        ({"score": True}, "wrong type"),
        ({"metadata": []}, "metadata and environment must be objects"),
        ({"fingerprint": 1}, "fingerprint must be an object of texts, or null"),
        ({"fingerprint": {"seed": 1}}, "fingerprint must be an object of texts, or null"),
        ({}, "its text is not what encode"),
    ],
)
def test_fields_are_checked_even_if_the_checksum_is_right(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        manifest.decode(manifest_with(**changes))


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"[" * 100_000, b"\xff", b'{"sha256": 1}', b"1" * 5000]
)
def test_an_invalid_manifest_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        manifest.decode(data)


@given(st.binary(max_size=100), st.integers(0, 2000), st.integers(0, 20))
def test_random_changes_raise_only_value_errors(new: bytes, position: int, length: int) -> None:
    data = manifest.encode(example())
    bad = data[:position] + new + data[position + length :]
    if bad != data:
        with pytest.raises(ValueError):
            manifest.decode(bad)


def test_a_manifest_above_the_size_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_LARGEST", 100)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        manifest.read(io.BytesIO(manifest.encode(example())))


def test_a_manifest_that_could_not_be_read_again_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_LARGEST", 100)
    with pytest.raises(ValueError, match=r"at most 100 bytes, got \d+; save from fewer processes"):
        manifest.encode(example())
