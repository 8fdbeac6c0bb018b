"""The Hugging Face hub: what could be the name of a data set there, and whether it can be asked at all."""

from __future__ import annotations

import re
import socket
import urllib.parse
import urllib.request
from pathlib import Path

from data_pipes.source.text import PACKED

ENDINGS = (
    ".txt", ".md", ".rst", ".tex", ".log", ".csv", ".tsv", ".html", ".htm", ".xml", ".pdf", ".py", ".c", ".zip", ".tar",
    ".bin", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather",
)  # fmt: skip
"""What only the names of files end in; data sets have dots too (owner/name-1.5)."""


def is_name(path: str) -> bool:
    """Tells whether a path that is not here could be the name of a data set: "name" or "owner/name".

    It is a mistyped path instead if it ends as a file does, has a dot but no owner, or begins with a folder
    that is here.

    Example:
        >>> [is_name(path) for path in ("owner/name-1.5", "wikitext", "corpus.tgz", "a/b/c", "./a", "")]
        [True, True, False, False, False, False]
    """
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path) is None:
        return False
    first, _, second = path.partition("/")
    file = path.lower().endswith(PACKED) or path.lower().endswith(ENDINGS) or (not second and "." in first)
    return not file and not (second and Path(first).is_dir())


def unreachable(name: str) -> str | None:
    """Looks the hub up, which takes no time, where loading would try again and again for half a minute.

    Args:
        name: of a data set; one in the library's cache needs no hub.

    Returns:
        What is the matter, or None: the hub has an address, or is not to be asked, or a proxy stands before
            it.
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
