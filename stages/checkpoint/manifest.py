"""A checkpoint's manifest: checksums of the state's files, leaf by leaf, and a description of the run.

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

A state that processes wrote in pieces has format 2: each file with the number of its leaves, and at each leaf
that is cut the number of its "first" row and the "rows" of the whole leaf. The files of
torch.distributed.checkpoint (format 3) have one "sha256" each, and no leaves.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import torch

from data_pipes.digest import hash_json
from stages.checkpoint.records import (
    LeafRecord,
    Piece,
    check_file,
    check_pieces,
    decode_pieces,
    encode_leaf,
    encode_piece,
)

ONE_FILE, PIECES, DCP = 1, 2, 3
"""Versions of the manifest's format: one file, one of each process, torch.distributed.checkpoint's files."""
STATE, MANIFEST = "state.msgpack", "manifest.json"
"""Names of the files in a checkpoint's folder."""
_FIELDS = ("step", "score", "metadata", "fingerprint", "environment")
_LARGEST = 2**30  # maximum bytes of a manifest, about 2.5 million leaves in all pieces


class Manifest(NamedTuple):
    """A checkpoint's description.

    Fields:
        step: number of items consumed from the data pipe.
        score: ranks checkpoints, lower is better; None if it was not measured.
        metadata: the caller's, JSON.
        fingerprint: the run's fingerprint; None if the caller gave none.
        environment: versions and machine, on which bitwise equality depends.
        bytes: length of the state's file; 0 if there are several files.
        leaves: in the order of the file; together they cover it.
        format: ONE_FILE, PIECES or DCP.
        pieces: the files, if there are several.
    """

    step: int
    score: float | None
    metadata: dict[str, Any]
    fingerprint: dict[str, str] | None
    environment: dict[str, Any]
    bytes: int
    leaves: tuple[LeafRecord, ...]
    format: int = ONE_FILE
    pieces: tuple[Piece, ...] = ()


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

    Raises:
        ValueError: if it is longer than `read` accepts.
    """
    pieces = files_of(manifest)
    files = {piece.file: encode_piece(piece) for piece in pieces}
    if manifest.format == ONE_FILE:
        files[STATE].pop("leaves", None)
    body: dict[str, Any] = {
        "format": manifest.format,
        **{name: getattr(manifest, name) for name in _FIELDS},
        "files": files,
        "leaves": [encode_leaf(leaf) for piece in pieces for leaf in piece.leaves],
    }
    body["sha256"] = _digest(body)
    lines = [f"{json.dumps(key)}: {_encode_lines(value)}" for key, value in body.items()]
    data = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
    if len(data) > _LARGEST:
        raise ValueError(
            f"a manifest has at most {_LARGEST} bytes, got {len(data)}; save from fewer processes, or in the "
            "format dcp"
        )
    return data


def decode(data: bytes) -> Manifest:
    """Decodes a manifest; its checksum and every field are verified.

    Raises:
        ValueError: if it is not a manifest of this format, or is damaged; the message has the reason.
    """
    try:
        body = json.loads(data)
        if not isinstance(body, dict) or body.get("sha256") != _digest(body):
            raise ValueError("its own sha256 does not match its contents")
        if body["format"] not in (ONE_FILE, PIECES, DCP):
            raise ValueError(
                f"format {body['format']!r}; this program reads formats 1 to {DCP}: use a matching version"
            )
        leaves = tuple(LeafRecord(**leaf) for leaf in body["leaves"])
        manifest = Manifest(**{name: body[name] for name in _FIELDS}, bytes=0, leaves=())
        if body["format"] == ONE_FILE:
            manifest = manifest._replace(bytes=body["files"][STATE]["bytes"], leaves=leaves)
        else:
            pieces = decode_pieces(body["files"], leaves)
            manifest = manifest._replace(format=body["format"], pieces=pieces)
        _check(manifest)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it is not a manifest ({type(error).__name__}: {str(error)[:100]})") from None
    if encode(manifest) != data:
        raise ValueError("its text is not what encode() writes: a byte between its fields was changed")
    return manifest


def files_of(manifest: Manifest) -> tuple[Piece, ...]:
    """Returns the files of a checkpoint with their records."""
    return manifest.pieces or (Piece(STATE, manifest.bytes, manifest.leaves),)


def read(file: BinaryIO) -> Manifest:
    """Reads and decodes a manifest from an open file, of at most 1 GiB.

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
    if type(manifest.step) is not int or manifest.step < 0:
        raise ValueError("its numbers must be whole and not negative")
    if manifest.format == ONE_FILE:
        check_file(manifest.leaves, manifest.bytes)
    check_pieces(manifest.pieces)
    if type(manifest.score) not in (float, int, type(None)):
        raise ValueError("a field has the wrong type")
    if not isinstance(manifest.metadata, dict) or not isinstance(manifest.environment, dict):
        raise ValueError("metadata and environment must be objects")
    if not isinstance(manifest.fingerprint, dict | None) or not all(
        type(value) is str for value in (manifest.fingerprint or {}).values()
    ):
        raise ValueError("the fingerprint must be an object of texts, or null")
