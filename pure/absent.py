"""Answer a name of another library that a package of ours does not have with the line to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn


def refuse_name(package: str, name: str, instead: Mapping[str, str]) -> NoReturn:
    """Raises the AttributeError for a name that a package does not have.

    A package whose names are those of another library calls it in its `__getattr__`, which Python calls for a
    missing name. So a user who expects all of the other library's names reads what to write instead.

    Args:
        package: the package's name, "pure.random".
        name: the missing name.
        instead: name of the other library -> what to write instead, as part of a sentence.

    Raises:
        AttributeError: always; with `instead[name]` if there is one.

    Example:
        >>> refuse_name("pure.random", "PRNGKey", {"PRNGKey": "write random.key(seed)"})
        Traceback (most recent call last):
        AttributeError: pure.random has no PRNGKey; write random.key(seed)
    """
    if name not in instead:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    raise AttributeError(f"{package} has no {name}; {instead[name]}")
