"""Read the adapters that a run starts from, without merging them into their base."""

from __future__ import annotations

from typing import NamedTuple

from pure.interop.peft_weights import Adapters
from pure.types import Tree
from stages.models import adapter_folder, language_model


class InitialAdapters(NamedTuple):
    """Adapters that a run starts from.

    Fields:
        path: their folder, as it was given.
        root: path or name of their base, a full model.
        params: params of the root.
        adapters: the adapters' weights and configuration.
        base: the entries of base.json: how the root was stored when the adapters were trained.
    """

    path: str
    root: str
    params: Tree
    adapters: Adapters
    base: adapter_folder.Base


def read(path: str) -> InitialAdapters | None:
    """Reads the adapters at a path; None for a full model.

    Raises:
        ValueError: if their base is adapters too, or as `language_model.load`.
        FileNotFoundError: as `language_model.load`.
    """
    folder = adapter_folder.find_adapters(path)
    if folder is None:
        return None
    root, folders = adapter_folder.follow_bases(folder)
    if len(folders) > 1:
        raise ValueError(
            f"{folder}: expected adapters of a full model, got adapters over adapters, not merged yet; "
            f"run intro2llm merge --model_path {path} --output_dir MERGED, and take --model_path MERGED"
        )
    params = language_model.load(root).params
    adapters = adapter_folder.read_adapters(folder, params, root)
    return InitialAdapters(path, root, params, adapters, adapter_folder.read_base(folder))
