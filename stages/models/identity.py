"""What the model of --model_path is, however its path is typed: an entry of the run's fingerprint."""

from __future__ import annotations

from pure.types import Tree
from stages.models import pretrained
from stages.models.adapter_folder import digest

NAME = "the model of --model_path"


def of(params: Tree) -> dict[str, str]:
    """Describes a model that a run begins with.

    The path of a run's folder, of its final_model, a relative path and a link are all the same model; a
    folder whose weights were replaced is another one.

    Args:
        params: whole, before adapters are put on them, in whatever dtype.

    Returns:
        {NAME: digest of every number of every weight}.
    """
    return {NAME: f"weights, sha256:{digest(params)}"}


def at(path: str | None) -> dict[str, str]:
    """Describes the model at a path; nothing if there is none.

    Raises:
        FileNotFoundError, ValueError: if it cannot be read.
    """
    return of(pretrained.load(path).params) if path else {}
