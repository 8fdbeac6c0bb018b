"""Recognize names of data sets on the Hugging Face hub, and check that the hub can be reached."""

from __future__ import annotations

import re
import socket
import urllib.parse
import urllib.request
from pathlib import Path

from data_pipes.source.text import PACKED

ENDINGS = (
    ".txt", ".md", ".rst", ".tex", ".log", ".csv", ".tsv", ".html", ".htm", ".xml", ".pdf", ".py", ".c",
    ".zip", ".tar", ".bin", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather",
)  # fmt: skip
"""Suffixes of file names; names of data sets have dots too (owner/name-1.5)."""


def is_name(path: str) -> bool:
    """Returns True if a path that does not exist could be a data set's name: "name" or "owner/name".

    It is a mistyped path instead if it has a file's suffix, has a dot but no owner, or begins with a folder
    that exists.

    Example:
        >>> [is_name(path) for path in ("owner/name-1.5", "wikitext", "corpus.tgz", "a/b/c", "./a", "")]
        [True, True, False, False, False, False]
    """
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path) is None:
        return False
    first, _, second = path.partition("/")
    file = path.lower().endswith(PACKED) or path.lower().endswith(ENDINGS) or (not second and "." in first)
    return not file and not (second and Path(first).is_dir())


def explain_unreachable(name: str) -> str | None:
    """Looks up the hub's address, which is fast, as loading would retry for half a minute.

    Args:
        name: of a data set; one in the library's cache needs no hub.

    Returns:
        The reason why the hub cannot be reached; None if it has an address, is not needed, or there is a
        proxy.
    """
    import datasets

    cached = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
    host = urllib.parse.urlsplit(datasets.config.HF_ENDPOINT).hostname
    if datasets.config.HF_HUB_OFFLINE or cached.exists() or urllib.request.getproxies() or host is None:
        return None
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        return f"{host} cannot be reached ({error.strerror or error})"
    return None
