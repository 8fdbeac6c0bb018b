"""SHA-256 digests: equal contents have equal digests, on every machine.

Digests stand in saved files (manifests, fingerprints, evaluation records), so none may ever change its value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

SHORT = 32
"""Hexadecimal digits of `label`."""


def hash_blocks(blocks: Iterable[bytes | memoryview]) -> str:
    """Hashes bytes that come in blocks, as if they were one: 64 hexadecimal digits.

    Example:
        >>> hash_blocks([b"a", b"bc"]) == hash_bytes(b"abc")
        True
    """
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def hash_bytes(data: bytes | memoryview) -> str:
    """Hashes bytes: 64 hexadecimal digits.

    Example:
        >>> hash_bytes(b"")[:16]
        'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()


def hash_json(value: Any) -> str:
    """Hashes a plain JSON value, whatever the order of its objects' keys: 64 hexadecimal digits.

    Example:
        >>> hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1})
        True
    """
    return hash_bytes(json.dumps(value, sort_keys=True).encode())


def hash_fraction(text: str) -> float:
    """Maps a text to a number in [0, 1): its digest's first four bytes as a fraction of 2**32.

    Texts whose number is below a share are held out, the same ones everywhere.

    Example:
        sha256("enum.py") begins with 0x101c2b94:

        >>> round(hash_fraction("enum.py"), 3)
        0.063
    """
    return int(hash_bytes(text.encode())[:8], 16) / 2**32


def label(digest: str) -> str:
    """Shortens a digest for a fingerprint's entry.

    Example:
        >>> label(hash_bytes(b""))
        'sha256:e3b0c44298fc1c149afbf4c8996fb924'
    """
    return f"sha256:{digest[:SHORT]}"
