"""Provenance of the cached data of a run, so that it is reused only for the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipes import tokenizer as tokenizers
from data_pipes.digest import hash_json
from data_pipes.source.text import files
from pure.plural import count_noun
from stages.models import folder as model_folder
from stages.models import jax_params
from stages.run.options.pretrain import CorpusFlags, StartFlags

DATA_FLAGS = ("field", "encoding", "subset", "split", "held_out", "filter", "on_bad")
"""Flags that change the tokens, besides the paths of text and tokenizer."""


def describe_inputs(flags: CorpusFlags, vocab_size: int) -> dict[str, Any]:
    """Describes the inputs that the data would be built from now.

    Args:
        flags: text, split and tokenizer.
        vocab_size: vocabulary size of the tokenizer, if one would be trained.

    Returns:
        {flag: value}; for text and tokenizer a dict with the path and, if it exists, what identifies its
        contents.
    """
    path = tokenizer_path(flags)
    tokenizer: dict[str, Any] = {"path": path}
    if path is None:
        tokenizer["trained"] = vocab_size
    elif Path(path).exists():
        tokenizer["fingerprint"] = tokenizers.fingerprint(tokenizers.load(path))
    others = {f"--{name}": getattr(flags, name) for name in DATA_FLAGS}
    return {"--data_path": _describe_text(flags.data_path), "--tokenizer_path": tokenizer, **others}


def tokenizer_path(flags: StartFlags) -> str | None:
    """Returns --tokenizer_path, or the tokenizer of --model_path; None if one is to be trained."""
    if flags.tokenizer_path:
        return flags.tokenizer_path
    if not flags.model_path:
        return None
    found = jax_params.find(flags.model_path)
    folder = model_folder.find_final_model(flags.model_path) if found is None else found.folder
    return str(folder / tokenizers.files.NAME)


def refuse_changed(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses cached data that was built from other inputs than the current ones.

    Files may have moved, and a folder may have several paths: the contents are compared if both are known.

    Args:
        folder: the run's folder, for the message.
        was: inputs of the cached data, from `describe_inputs`.
        now: current inputs.

    Raises:
        ValueError: if inputs differ; names their flags.
    """
    changes = [
        f"{name} was {_render(was.get(name))}, is {_render(now[name])}"
        for name in now
        if not _are_equal(was.get(name), now[name])
    ]
    if changes:
        raise ValueError(
            f"{folder / 'data'} was made from other inputs: {'; '.join(changes)}. Set these back, or "
            "choose another --output_dir"
        )


def _describe_text(data_path: str) -> dict[str, Any]:
    """A file or folder by the names and sizes of its files; anything else by its name."""
    root = Path(data_path)
    if data_path == "embedded" or not root.exists():
        return {"path": data_path}
    sizes = [(path.relative_to(root).as_posix(), path.stat().st_size) for path in files(root)]
    total = sum(size for _, size in sizes)
    return {"path": data_path, "files": len(sizes), "bytes": total, "names": hash_json(sizes)[:16]}


def _are_equal(was: Any, now: Any) -> bool:
    """Compares contents if both descriptions have them, else paths."""
    if not isinstance(was, Mapping) or not isinstance(now, Mapping):
        return was == now
    old, new = ({name: value for name, value in side.items() if name != "path"} for side in (was, now))
    return old == new if old and new else was.get("path") == now["path"]


def _render(value: Any) -> str:
    """A value for a message."""
    if not isinstance(value, Mapping):
        return str(value)
    if "trained" in value:
        return f"one trained here, of {value['trained']} ids"
    size = f" ({count_noun(value['files'], 'file')}, {value.get('bytes')} bytes)" if "files" in value else ""
    return f"{value.get('path')}{size}"
