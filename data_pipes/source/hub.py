"""Recognize names of data sets on the Hugging Face hub, and check that the hub can be reached."""

from __future__ import annotations

import re
import socket
import urllib.parse
import urllib.request
from pathlib import Path

from data_pipes.source.text import COMPRESSED

ENDINGS = (
    ".txt", ".md", ".rst", ".tex", ".log", ".csv", ".tsv", ".html", ".htm", ".xml", ".pdf", ".py", ".c",
    ".zip", ".tar", ".bin", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather",
)  # fmt: skip
"""Suffixes of files; any other dot may be part of a data set's name (owner/name-1.5)."""


def is_name(path: str) -> bool:
    """Returns True if a path that does not exist could be a data set's name: "name" or "owner/name".

    A path that has a file's suffix, has a dot but no owner, or begins with an existing folder is a mistyped
    path instead.

    Example:
        >>> [is_name(path) for path in ("owner/name-1.5", "wikitext", "corpus.tgz", "a/b/c", "./a", "")]
        [True, True, False, False, False, False]
    """
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path) is None:
        return False
    first, _, second = path.partition("/")
    is_file = path.lower().endswith((*COMPRESSED, *ENDINGS)) or (not second and "." in first)
    return not is_file and not (second and Path(first).is_dir())


def explain_unreachable(name: str) -> str | None:
    """Explains why the hub cannot be reached, by a DNS lookup of its host.

    The lookup fails fast; loading a data set would retry for half a minute.

    Args:
        name: name of a data set; one in the cache of the library `datasets` does not need the hub.

    Returns:
        The reason why the hub cannot be reached; None if the lookup succeeds, the hub is not needed, or there
        is a proxy.
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
