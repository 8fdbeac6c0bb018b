"""The page to chat with the model: one HTML file, with the headers that forbid it everything else."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import NamedTuple


class Page(NamedTuple):
    """The page's bytes and headers."""

    content: bytes
    headers: tuple[tuple[str, str], ...]


def read_page() -> Page:
    """Read the page, and make the headers by which a browser runs its own script and style only."""
    content = resources.files("stages.serve").joinpath("page.html").read_bytes()
    rules = [
        "default-src 'none'",
        f"script-src {_hash_of(content, b'script')}",
        f"style-src {_hash_of(content, b'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    headers = (
        ("Content-Security-Policy", "; ".join(rules)),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-cache"),
    )
    return Page(content, headers)


def _hash_of(content: bytes, tag: bytes) -> str:
    """Return the source expression of the text of the page's only element of that name."""
    match = re.search(rb"<%s>(.*?)</%s>" % (tag, tag), content, re.DOTALL)
    assert match, f"the page has a <{tag.decode()}>"
    return f"'sha256-{base64.b64encode(hashlib.sha256(match[1]).digest()).decode()}'"
