"""A checkpoint's manifest: what the state's file must hold, leaf by leaf, and what the run was that wrote it.

Every byte of the state's file belongs to a leaf, as its data or its header, and each leaf has its own sha256:
so damage has a name, and several threads can hash. The file's digest is that of its leaves' digests, and the
manifest carries one of itself. It is read like anything that strangers wrote: every field is checked, and no
name in it becomes a path.

    {"format": 1, "step": 100, "score": 2.71, "metadata": {...},
     "fingerprint": {"optimizer.learning_rate": "0.001", ...}, "environment": {"torch": "2.13.0", "threads":
     2, ...}, "files": {"state.msgpack": {"bytes": ..., "sha256_of_leaves": ...}}, "leaves": [{"path":
     "params/w", "dtype": "float32", "shape": [2, 3], "bytes": 24, "sha256": ...,
                 "header_sha256": ..., "spans": [[offset, length], ...]}, ...],
     "sha256": of the JSON of all the rest, keys sorted}
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import torch

from data_pipes.digest import hash_bytes, hash_json

FORMAT = 1
STATE, MANIFEST = "state.msgpack", "manifest.json"
_ABOUT = ("step", "score", "metadata", "fingerprint", "environment")
_LARGEST = 2**28  # bytes of a manifest; 300,000 leaves


class LeafRecord(NamedTuple):
    """Where a leaf lies in the state's file, and its checksums.

    Fields:
        path: "params/layers/0/attention/q"; "" for the structure after the last leaf.
        dtype: as numpy names it, or a Python type's name.
        shape: its sizes.
        bytes: length of its data.
        sha256: of its data alone, so that equal leaves in different checkpoints have equal digests.
        header_sha256: of the bytes before and (if it is in chunks) between its data: all of a file belongs to
            a leaf.
        spans: (offset, length) of each run of its data in the file.
    """

    path: str
    dtype: str
    shape: list[int]
    bytes: int
    sha256: str
    header_sha256: str
    spans: list[list[int]]


class Manifest(NamedTuple):
    """What a checkpoint says of itself.

    Fields:
        step: items of the pipe consumed.
        score: what decides which checkpoint is best, lower is better; None if it was not measured.
        metadata: whatever the caller gave, JSON.
        fingerprint: of the run; None if the caller gave none.
        environment: versions and machine, on which equality bit for bit depends.
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
    """What is wrong with a checkpoint."""

    file: str  # "state.msgpack" or "manifest.json"
    leaves: tuple[str, ...]  # paths of what cannot be trusted; () if that cannot be told
    reason: str


def about(
    step: int, score: float | None, metadata: Mapping[str, Any] | None, fingerprint: Mapping[str, str] | None
) -> Manifest:
    """Begins a manifest with what is known before the state is written.

    Args:
        step, score, metadata, fingerprint: as in `checkpoint.save`.

    Returns:
        A Manifest of an empty file.

    Raises:
        TypeError: if the metadata is not JSON.
    """
    try:
        plain = json.loads(json.dumps(dict(metadata or {})))  # keys become str now, not when it is read
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"checkpoint.save: metadata must be JSON: {error}; convert tensors with .item()"
        ) from None
    told = None if fingerprint is None else {str(key): str(value) for key, value in fingerprint.items()}
    return Manifest(step, None if score is None else float(score), plain, told, environment(), 0, ())


def encode(manifest: Manifest) -> bytes:
    """Writes a manifest as JSON with its own checksum.

    Args:
        manifest: `metadata` must be JSON (NaN and infinity are written as Python's json writes them).

    Returns:
        UTF-8, one line a leaf, so that two manifests can be compared with `diff`.
    """
    body: dict[str, Any] = {
        "format": FORMAT,
        **{name: getattr(manifest, name) for name in _ABOUT},
        "files": {STATE: {"bytes": manifest.bytes, "sha256_of_leaves": root(manifest.leaves)}},
        "leaves": [leaf._asdict() for leaf in manifest.leaves],
    }
    body["sha256"] = _digest(body)
    lines = [f"{json.dumps(key)}: {_lines(value)}" for key, value in body.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def decode(data: bytes) -> Manifest:
    """Reads a manifest, and believes nothing of it before its checksum and every field are right.

    Raises:
        ValueError: if it is not a manifest of this format, or is damaged; the message says how.
    """
    try:
        body = json.loads(data)
        if not isinstance(body, dict) or body.get("sha256") != _digest(body):
            raise ValueError("its own sha256 does not fit its contents")
        if body["format"] != FORMAT:
            raise ValueError(
                f"format {body['format']!r}; this program reads format {FORMAT}: use a matching version"
            )
        leaves = tuple(LeafRecord(**leaf) for leaf in body["leaves"])
        about = {name: body[name] for name in _ABOUT}
        manifest = Manifest(**about, bytes=body["files"][STATE]["bytes"], leaves=leaves)
        _check(manifest)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it is not a manifest ({type(error).__name__}: {str(error)[:100]})") from None
    if encode(manifest) != data:
        raise ValueError("it is not written as manifests are; a byte between its fields was changed")
    return manifest


def root(leaves: Iterable[LeafRecord]) -> str:
    """The digest of a whole file: sha256 over header_sha256 and sha256 (as hex) of each leaf in turn."""
    return hash_bytes("".join(leaf.header_sha256 + leaf.sha256 for leaf in leaves).encode())


def edges(leaves: Sequence[LeafRecord], size: int) -> list[tuple[int, int, bool]]:
    """Where each run of header or data ends: [(offset, index of the leaf, whether data)], ascending.

    Example:
        >>> one = LeafRecord("w", "int8", [2], 2, "", "", [[5, 2]])
        >>> edges([one, one._replace(path="", spans=[])], 8)
        [(5, 0, False), (7, 0, True), (8, 1, False)]
    """
    found = []
    for i, leaf in enumerate(leaves):
        for offset, length in leaf.spans or [[size, 0]]:
            found += [(offset, i, False), (offset + length, i, True)] if leaf.spans else [(size, i, False)]
    return found


def read(file: BinaryIO) -> Manifest:
    """Reads a manifest from an open file, of at most 256 MiB; otherwise as `decode`.

    Raises:
        ValueError: also if it is longer.
    """
    data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"a manifest has at most {_LARGEST} bytes")
    return decode(data)


def environment() -> dict[str, Any]:
    """Describes what equality bit for bit depends on besides the run itself: versions, machine and
    threads."""
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
    """Says what differs between two flat dicts, by name.

    A number that is bound in several places ("optimizer.learning_rate", "update.learning_rate") is told once,
    where its name is shortest.

    Example:
        >>> differences({"a.lr": "0.1", "seed": "0", "b.c.lr": "0.1"}, {"a.lr": "0.2", "seed": "0", "b.c.lr": "0.2"})
        ['a.lr was 0.1, is 0.2']
        >>> differences({}, {"ema": "0.9"})
        ['ema was not there, is 0.9']
        >>> differences({"pipe": "list of 9, sha256:1f"}, {"pipe": "list of 8, sha256:2e"})
        ['pipe has other contents, list of 8 instead of list of 9']
    """
    absent = "not there"
    told: dict[tuple, str] = {}
    for name in sorted(dict.fromkeys((*was, *now)), key=len):
        change = (was.get(name, absent), now.get(name, absent))
        if change[0] != change[1]:
            words = f"was {change[0]}, is {change[1]}"
            if all("sha256:" in str(text) for text in change):
                kinds = [str(text).partition("sha256:")[0].strip(", ") for text in change]
                words = "has other contents" + (
                    f", {kinds[1]} instead of {kinds[0]}" if kinds[0] != kinds[1] else ""
                )
            told.setdefault((name.split(".")[-1], *change), f"{name} {words}")
    return list(told.values())


def damages(file: BinaryIO, size: int, manifest: Manifest) -> Damage | None:
    """Compares a state's file with its manifest leaf by leaf, and names the leaves that cannot be trusted.

    Args:
        file: open at its beginning.
        size: bytes that it has.
        manifest: what it should hold.

    Returns:
        None if every byte is as it was written.
    """
    bad = [leaf.path or "the end" for leaf in manifest.leaves if not _intact(file, leaf, size)]
    if size != manifest.bytes:
        how = "is cut off" if size < manifest.bytes else "goes on after its end"
        last = [manifest.leaves[-1].path] if manifest.leaves else []
        return Damage(
            STATE, tuple(bad or last), f"it {how}: {manifest.bytes} bytes were written, {size} are there"
        )
    return changed(bad) if bad else None


def changed(leaves: Iterable[str]) -> Damage:
    """The damage of leaves whose sha256 is wrong."""
    return Damage(STATE, tuple(leaves), "bytes have changed since it was written (sha256)")


def _intact(file: BinaryIO, leaf: LeafRecord, size: int) -> bool:
    """Whether a leaf's data and the bytes before it are as they were written; `file` stands at its header."""
    header, data = hashlib.sha256(), hashlib.sha256()
    for offset, length in leaf.spans or [[size, 0]]:
        _feed(header, file, offset - file.tell())
        _feed(data, file, length)
    return data.hexdigest() == leaf.sha256 and header.hexdigest() == leaf.header_sha256


def _feed(digest: Any, file: BinaryIO, length: int) -> None:
    """Hashes the next `length` bytes, or as many as there are."""
    while length > 0 and (block := file.read(min(length, 1 << 20))):
        digest.update(block)
        length -= len(block)


def _digest(body: Mapping[str, Any]) -> str:
    """sha256 of the JSON of a manifest without its checksum."""
    rest = {key: value for key, value in body.items() if key != "sha256"}
    return hash_json(rest)


def _lines(value: Any) -> str:
    """JSON with one line for each entry of the outermost dict or list."""
    if isinstance(value, dict) and value:
        entries = [f"{json.dumps(str(key))}: {json.dumps(item)}" for key, item in value.items()]
        return "{\n " + ",\n ".join(entries) + "\n}"
    if isinstance(value, list) and value:
        return "[\n " + ",\n ".join(json.dumps(item) for item in value) + "\n]"
    return json.dumps(value)


def _check(manifest: Manifest) -> None:
    """Raises if a field is not what it should be."""
    natural = (
        manifest.step,
        manifest.bytes,
        *(number for leaf in manifest.leaves for number in _numbers(leaf)),
    )
    if not all(type(n) is int and n >= 0 for n in natural):
        raise ValueError("its numbers must be whole and not negative")
    ends = [0, *(end for end, _, _ in edges(manifest.leaves, manifest.bytes))]
    if ends != sorted(ends) or ends[-1] != manifest.bytes:
        raise ValueError("its leaves do not cover the file one after another")
    texts = [t for leaf in manifest.leaves for t in (leaf.path, leaf.sha256, leaf.header_sha256)]
    if not all(type(t) is str for t in texts) or not isinstance(manifest.score, float | int | None):
        raise ValueError("a field has the wrong type")
    if not isinstance(manifest.metadata, dict) or not isinstance(manifest.environment, dict):
        raise ValueError("metadata and environment must be objects")
    if not isinstance(manifest.fingerprint, dict | None):
        raise ValueError("the fingerprint must be an object or null")


def _numbers(leaf: LeafRecord) -> Iterator[int]:
    yield leaf.bytes
    yield from leaf.shape
    for span in leaf.spans:
        if len(span) != 2:
            raise ValueError("spans must be pairs of offset and length")
        yield from span
