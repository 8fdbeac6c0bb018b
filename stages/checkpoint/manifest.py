"""A checkpoint's manifest: checksums of the state's file, leaf by leaf, and a description of the run.

Every byte of the state's file belongs to a leaf, as its data or its header, and each leaf has its own sha256,
so that damage is reported by leaf, and several threads can hash. The digest of the whole file is computed
from the digests of its leaves; the manifest ends with a digest of itself. A manifest is read like any file
from third parties: every field is checked, and no name in it becomes a path.

    {"format": 1, "step": 100, "score": 2.71, "metadata": {...},
     "fingerprint": {"optimizer.learning_rate": "0.001", ...},
     "environment": {"torch": "2.13.0", "threads": 2, ...},
     "files": {"state.msgpack": {"bytes": ..., "sha256_of_leaves": ...}},
     "leaves": [{"path": "params/w", "dtype": "float32", "shape": [2, 3], "bytes": 24, "sha256": ...,
                 "header_sha256": ..., "spans": [[offset, length], ...]}, ...],
     "sha256": of the JSON of all the rest, keys sorted}
"""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import torch

from data_pipes.digest import hash_bytes, hash_json

FORMAT = 1
"""Version of the manifest's format."""
STATE, MANIFEST = "state.msgpack", "manifest.json"
"""Names of the files in a checkpoint's folder."""
_FIELDS = ("step", "score", "metadata", "fingerprint", "environment")
_LARGEST = 2**28  # maximum bytes of a manifest, about 300,000 leaves


class LeafRecord(NamedTuple):
    """A leaf's place in the state's file, and its checksums.

    Fields:
        path: "params/layers/0/attention/q"; "" for the bytes after the last leaf,
            which hold the structure of the tree.
        dtype: as numpy names it, or a Python type's name.
        shape: its sizes.
        bytes: length of its data.
        sha256: of its data alone, so that equal leaves in different checkpoints have equal digests.
        header_sha256: of the bytes before and (if it is in chunks) between its data.
        spans: (offset, length) of each contiguous piece of its data in the file.
    """

    path: str
    dtype: str
    shape: list[int]
    bytes: int
    sha256: str
    header_sha256: str
    spans: list[list[int]]


class Manifest(NamedTuple):
    """A checkpoint's description.

    Fields:
        step: number of items consumed from the data pipe.
        score: ranks checkpoints, lower is better; None if it was not measured.
        metadata: the caller's, JSON.
        fingerprint: the run's fingerprint; None if the caller gave none.
        environment: versions and machine, on which bitwise equality depends.
        bytes: length of the state's file.
        leaves: in the order of the file; together they cover it.
    """

    step: int
    score: float | None
    metadata: dict[str, Any]
    fingerprint: dict[str, str] | None
    environment: dict[str, Any]
    bytes: int
    leaves: tuple[LeafRecord, ...]


class Damage(NamedTuple):
    """Damage of a checkpoint."""

    file: str  # "state.msgpack" or "manifest.json"
    leaves: tuple[str, ...]  # paths of the leaves that cannot be trusted; () if unknown
    reason: str


def make_manifest(
    step: int,
    score: float | None,
    metadata: Mapping[str, Any] | None,
    fingerprint: Mapping[str, str] | None,
    processes: int = 1,
) -> Manifest:
    """Makes the manifest of a state that is not written yet.

    Args:
        step, score, metadata, fingerprint, processes: as in `checkpoint.save`.

    Returns:
        A Manifest without leaves.

    Raises:
        TypeError: if the metadata is not JSON.
    """
    try:
        plain = json.loads(json.dumps(dict(metadata or {})))  # a round trip: keys are str as after reading
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"checkpoint.save: metadata must be JSON: {error}; convert tensors with .item()"
        ) from None
    texts = None if fingerprint is None else {str(key): str(value) for key, value in fingerprint.items()}
    return Manifest(
        step=step,
        score=None if score is None else float(score),
        metadata=plain,
        fingerprint=texts,
        environment=environment() | {"processes": processes},
        bytes=0,
        leaves=(),
    )


def encode(manifest: Manifest) -> bytes:
    """Encodes a manifest as JSON with its own checksum.

    Args:
        manifest: `metadata` must be JSON (NaN and infinity are written as Python's json writes them).

    Returns:
        UTF-8, one line per leaf, so that two manifests can be compared with `diff`.
    """
    body: dict[str, Any] = {
        "format": FORMAT,
        **{name: getattr(manifest, name) for name in _FIELDS},
        "files": {STATE: {"bytes": manifest.bytes, "sha256_of_leaves": hash_leaves(manifest.leaves)}},
        "leaves": [leaf._asdict() for leaf in manifest.leaves],
    }
    body["sha256"] = _digest(body)
    lines = [f"{json.dumps(key)}: {_encode_lines(value)}" for key, value in body.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def decode(data: bytes) -> Manifest:
    """Decodes a manifest; its checksum and every field are verified.

    Raises:
        ValueError: if it is not a manifest of this format, or is damaged; the message has the reason.
    """
    try:
        body = json.loads(data)
        if not isinstance(body, dict) or body.get("sha256") != _digest(body):
            raise ValueError("its own sha256 does not match its contents")
        if body["format"] != FORMAT:
            raise ValueError(
                f"format {body['format']!r}; this program reads format {FORMAT}: use a matching version"
            )
        leaves = tuple(LeafRecord(**leaf) for leaf in body["leaves"])
        fields = {name: body[name] for name in _FIELDS}
        manifest = Manifest(**fields, bytes=body["files"][STATE]["bytes"], leaves=leaves)
        _check(manifest)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it is not a manifest ({type(error).__name__}: {str(error)[:100]})") from None
    if encode(manifest) != data:
        raise ValueError("its text is not what encode() writes: a byte between its fields was changed")
    return manifest


def hash_leaves(leaves: Iterable[LeafRecord]) -> str:
    """Hashes header_sha256 and sha256 (as hex) of each leaf in turn: the digest of the whole file."""
    return hash_bytes("".join(leaf.header_sha256 + leaf.sha256 for leaf in leaves).encode())


def piece_ends(leaves: Sequence[LeafRecord], size: int) -> list[tuple[int, int, bool]]:
    """Lists where each piece of the file ends: [(offset, index of the leaf, is data)], ascending.

    A piece is the header or a contiguous part of the data of one leaf.

    Example:
        >>> one = LeafRecord("w", "int8", [2], 2, "", "", [[5, 2]])
        >>> piece_ends([one, one._replace(path="", spans=[])], 8)
        [(5, 0, False), (7, 0, True), (8, 1, False)]
    """
    ends = []
    for i, leaf in enumerate(leaves):
        for offset, length in leaf.spans:
            ends += [(offset, i, False), (offset + length, i, True)]
        if not leaf.spans:
            ends.append((size, i, False))
    return ends


def read(file: BinaryIO) -> Manifest:
    """Reads and decodes a manifest from an open file, of at most 256 MiB.

    Raises:
        ValueError: as `decode`, and if the file is longer.
    """
    data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"expected a manifest of at most {_LARGEST} bytes, got more")
    return decode(data)


def environment() -> dict[str, Any]:
    """Describes versions, machine and threads, on which bitwise equality depends besides the run."""
    cuda = torch.cuda.is_available()
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if cuda else "none",
        "python": platform.python_version(),
    }


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists the differences of two flat dicts, by name.

    A value that has several names ("optimizer.learning_rate", "update.learning_rate") is listed once, with
    its shortest name.

    Example:
        >>> differences({"a.lr": "0.1", "seed": "0", "b.c.lr": "0.1"},
        ...             {"a.lr": "0.2", "seed": "0", "b.c.lr": "0.2"})
        ['a.lr was 0.1, is 0.2']
        >>> differences({}, {"ema": "0.9"})
        ['ema was not there, is 0.9']
        >>> differences({"pipe": "list of 9, sha256:1f"}, {"pipe": "list of 8, sha256:2e"})
        ['pipe has other contents, list of 8 instead of list of 9']
    """
    absent = "not there"
    lines: dict[tuple, str] = {}
    for name in sorted(dict.fromkeys((*was, *now)), key=len):
        old, new = was.get(name, absent), now.get(name, absent)
        if old != new:
            lines.setdefault(
                (name.split(".")[-1], old, new), f"{name} {_describe_change(str(old), str(new))}"
            )
    return list(lines.values())


def _describe_change(old: str, new: str) -> str:
    """Describes how a value changed, without its digests (sha256)."""
    if "sha256:" not in old or "sha256:" not in new:
        return f"was {old}, is {new}"
    old_kind, new_kind = (text.partition("sha256:")[0].strip(", ") for text in (old, new))
    return "has other contents" + (f", {new_kind} instead of {old_kind}" if old_kind != new_kind else "")


def find_damage(file: BinaryIO, size: int, manifest: Manifest) -> Damage | None:
    """Compares a state's file with its manifest leaf by leaf, and names the damaged leaves.

    Args:
        file: open at its beginning.
        size: the file's length in bytes.
        manifest: the file's manifest.

    Returns:
        Damage; None if every byte is as it was written.
    """
    bad = [leaf.path or "the end" for leaf in manifest.leaves if not _is_intact(file, leaf, size)]
    if size != manifest.bytes:
        how = "is cut off" if size < manifest.bytes else "is too long"
        last = [leaf.path for leaf in manifest.leaves[-1:]]
        return Damage(
            STATE, tuple(bad or last), f"it {how}: {manifest.bytes} bytes were written, the file has {size}"
        )
    return damage_of_leaves(bad) if bad else None


def damage_of_leaves(leaves: Iterable[str]) -> Damage:
    """Describes the damage of leaves whose sha256 is wrong."""
    return Damage(STATE, tuple(leaves), "bytes have changed since it was written (sha256)")


def _is_intact(file: BinaryIO, leaf: LeafRecord, size: int) -> bool:
    """Verifies a leaf's data and the bytes before it; `file` is positioned at its header."""
    header, data = hashlib.sha256(), hashlib.sha256()
    for offset, length in leaf.spans or [[size, 0]]:  # no data: header up to the end of the file
        _hash_next(header, file, offset - file.tell())
        _hash_next(data, file, length)
    return data.hexdigest() == leaf.sha256 and header.hexdigest() == leaf.header_sha256


def _hash_next(digest: Any, file: BinaryIO, length: int) -> None:
    """Hashes the next `length` bytes of a file, or as many as there are."""
    while length > 0 and (block := file.read(min(length, 1 << 20))):
        digest.update(block)
        length -= len(block)


def _digest(body: Mapping[str, Any]) -> str:
    """sha256 of the JSON of a manifest without its checksum."""
    rest = {key: value for key, value in body.items() if key != "sha256"}
    return hash_json(rest)


def _encode_lines(value: Any) -> str:
    """JSON with one line for each entry of the outermost dict or list."""
    if isinstance(value, dict) and value:
        entries = [f"{json.dumps(str(key))}: {json.dumps(item)}" for key, item in value.items()]
        return "{\n " + ",\n ".join(entries) + "\n}"
    if isinstance(value, list) and value:
        return "[\n " + ",\n ".join(json.dumps(item) for item in value) + "\n]"
    return json.dumps(value)


def _check(manifest: Manifest) -> None:
    """Raises ValueError if a field has a wrong type or value."""
    numbers = [manifest.step, manifest.bytes]
    for leaf in manifest.leaves:
        numbers += _list_integers(leaf)
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("its numbers must be whole and not negative")
    ends = [0, *(end for end, _, _ in piece_ends(manifest.leaves, manifest.bytes))]
    if ends != sorted(ends) or ends[-1] != manifest.bytes:
        raise ValueError("its leaves do not cover the file one after another")
    texts = [t for leaf in manifest.leaves for t in (leaf.path, leaf.dtype, leaf.sha256, leaf.header_sha256)]
    if not all(type(t) is str for t in texts) or type(manifest.score) not in (float, int, type(None)):
        raise ValueError("a field has the wrong type")
    if not isinstance(manifest.metadata, dict) or not isinstance(manifest.environment, dict):
        raise ValueError("metadata and environment must be objects")
    if not isinstance(manifest.fingerprint, dict | None) or not all(
        type(value) is str for value in (manifest.fingerprint or {}).values()
    ):
        raise ValueError("the fingerprint must be an object of texts, or null")


def _list_integers(leaf: LeafRecord) -> list[int]:
    """Lists the integers of a leaf's record; raises ValueError if a span is not a pair."""
    if any(len(span) != 2 for span in leaf.spans):
        raise ValueError("spans must be pairs of offset and length")
    return [leaf.bytes, *leaf.shape, *itertools.chain(*leaf.spans)]
