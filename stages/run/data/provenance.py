"""What the data of a run was made from, so that a folder's data is used again only for what it was made
from."""

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
"""Flags that change the tokens, besides where text and tokenizer come from."""


def of(options: PretrainOptions, vocab_size: int) -> dict[str, Any]:
    """Describes what data would be made from now.

    Args:
        options: the flags.
        vocab_size: of a tokenizer that would be trained.

    Returns:
        {flag: value}; of text and tokenizer a dict with their path and, where they are files, what identifies
        them.
    """
    given = tokenizer_path(options)
    tokenizer: dict[str, Any] = {"path": given}
    if given is None:
        tokenizer["trained"] = vocab_size
    elif Path(given).exists():
        tokenizer["fingerprint"] = tokenizers.fingerprint(tokenizers.load(given))
    flags = {f"--{name}": getattr(options, name) for name in READING}
    return {"--data_path": _text(options.data_path), "--tokenizer_path": tokenizer, **flags}


def tokenizer_path(options: PretrainOptions) -> str | None:
    """The tokenizer that is given: by its own flag, or beside the model to start from."""
    if options.tokenizer_path:
        return options.tokenizer_path
    if not options.model_path:
        return None
    return str(model_folder.find_final_model(options.model_path) / tokenizers.files.NAME)


def refuse_another(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compares what the data was made from with what it would be made from now.

    Files may have moved, and a folder may be called in several ways: what is in them decides, where both can
    be seen.

    Raises:
        ValueError: naming what differs.
    """
    told = [
        f"{name} was {_say(was.get(name))}, is {_say(now[name])}"
        for name in now
        if not _same(was.get(name), now[name])
    ]
    if told:
        raise ValueError(
            f"{folder / 'data'} was made from something else: {'; '.join(told)}. Set these back, or choose another "
            "--output_dir"
        )


def _text(data_path: str) -> dict[str, Any]:
    """A file or folder by the names and sizes of its files; anything else by its name."""
    top = Path(data_path)
    if data_path == "embedded" or not top.exists():
        return {"path": data_path}
    found = [(path.relative_to(top).as_posix(), path.stat().st_size) for path in files(top)]
    names = hash_json(found)[:16]
    return {"path": data_path, "files": len(found), "bytes": sum(size for _, size in found), "names": names}


def _same(was: Any, now: Any) -> bool:
    """Equal facts; equal paths, where one side cannot be seen."""
    if not isinstance(was, Mapping) or not isinstance(now, Mapping):
        return was == now
    facts = [{name: value for name, value in side.items() if name != "path"} for side in (was, now)]
    return facts[0] == facts[1] if all(facts) else was.get("path") == now["path"]


def _say(value: Any) -> str:
    """A value for a message."""
    if not isinstance(value, Mapping):
        return str(value)
    if "trained" in value:
        return f"one trained here, of {value['trained']} ids"
    size = f" ({value['files']} files, {value.get('bytes')} bytes)" if "files" in value else ""
    return f"{value.get('path')}{size}"
