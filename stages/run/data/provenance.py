"""Provenance of the cached data of a run, so that it is reused only for the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipes import tokenizer as tokenizers
from data_pipes.digest import hash_json
from data_pipes.source.text import files
from stages.models import folder as model_folder
from stages.run.options.pretrain import PretrainOptions

READING = ("field", "encoding", "subset", "split", "held_out", "filter", "on_bad")
"""Flags that change the tokens, besides the paths of text and tokenizer."""


def describe_inputs(options: PretrainOptions, vocab_size: int) -> dict[str, Any]:
    """Describes the inputs that the data would be built from now.

    Args:
        options: the flags.
        vocab_size: of a tokenizer that would be trained.

    Returns:
        {flag: value}; for text and tokenizer a dict with the path and, if it exists, what identifies its
        contents.
    """
    path = tokenizer_path(options)
    tokenizer: dict[str, Any] = {"path": path}
    if path is None:
        tokenizer["trained"] = vocab_size
    elif Path(path).exists():
        tokenizer["fingerprint"] = tokenizers.fingerprint(tokenizers.load(path))
    flags = {f"--{name}": getattr(options, name) for name in READING}
    return {"--data_path": _describe_text(options.data_path), "--tokenizer_path": tokenizer, **flags}


def tokenizer_path(options: PretrainOptions) -> str | None:
    """Returns the tokenizer's path: of its own flag, or in the folder of the model to start from."""
    if options.tokenizer_path:
        return options.tokenizer_path
    if not options.model_path:
        return None
    return str(model_folder.find_final_model(options.model_path) / tokenizers.files.NAME)


def refuse_changed(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compares the inputs of the cached data with those of now.

    Files may have moved, and a folder may have several paths: the contents are compared if both are known.

    Raises:
        ValueError: naming the flags that differ.
    """
    changes = [
        f"{name} was {_render(was.get(name))}, is {_render(now[name])}"
        for name in now
        if not _are_equal(was.get(name), now[name])
    ]
    if changes:
        raise ValueError(
            f"{folder / 'data'} was made from something else: {'; '.join(changes)}. Set these back, or "
            "choose another --output_dir"
        )


def _describe_text(data_path: str) -> dict[str, Any]:
    """A file or folder by the names and sizes of its files; anything else by its name."""
    top = Path(data_path)
    if data_path == "embedded" or not top.exists():
        return {"path": data_path}
    sizes = [(path.relative_to(top).as_posix(), path.stat().st_size) for path in files(top)]
    total = sum(size for _, size in sizes)
    return {"path": data_path, "files": len(sizes), "bytes": total, "names": hash_json(sizes)[:16]}


def _are_equal(was: Any, now: Any) -> bool:
    """Compares contents if both sides know them, else paths."""
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
    size = f" ({value['files']} files, {value.get('bytes')} bytes)" if "files" in value else ""
    return f"{value.get('path')}{size}"
