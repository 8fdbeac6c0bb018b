"""SHA-256 digests: equal contents have equal digests, on every machine.

Digests are stored in saved files (manifests, fingerprints, evaluation records), so these functions must never
return another value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

SHORT = 32
"""Hexadecimal digits of `short_digest`."""


def hash_blocks(blocks: Iterable[bytes | memoryview]) -> str:
    """Hashes the concatenation of blocks of bytes: 64 hexadecimal digits.

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
    """Hashes a JSON value, independently of the order of object keys: 64 hexadecimal digits.

    Example:
        >>> hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1})
        True
    """
    return hash_bytes(json.dumps(value, sort_keys=True).encode())


def hash_fraction(text: str) -> float:
    """Maps a text to a number in [0, 1): its digest's first four bytes as a fraction of 2**32.

    A text is held out if its number is below the held-out share, so that the split is the same on every
    machine.

    Example:
        sha256("enum.py") begins with 0x101c2b94:

        >>> round(hash_fraction("enum.py"), 3)
        0.063
    """
    return int(hash_bytes(text.encode())[:8], 16) / 2**32


def short_digest(digest: str) -> str:
    """Shortens a digest to 32 digits with the prefix "sha256:", for an entry of a fingerprint.

    Example:
        >>> short_digest(hash_bytes(b""))
        'sha256:e3b0c44298fc1c149afbf4c8996fb924'
    """
    return f"sha256:{digest[:SHORT]}"
