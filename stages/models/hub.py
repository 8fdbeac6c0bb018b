"""Find a model's folder by its name at huggingface.co."""

from __future__ import annotations

import re
from pathlib import Path

NAME = re.compile(r"[\w.-]+/[\w.-]+")
FILES = (
    "config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "special_tokens_map.json",
    "generation_config.json",
)
"""Files to download."""


def find(path: str | Path) -> Path:
    """Returns the folder itself; or, if there is none and the text is a model's name, its download.

    Args:
        path: a folder, or "ORGANISATION/MODEL".

    Returns:
        A folder; it need not exist if the text is no name.

    Raises:
        FileNotFoundError: if there is neither such a folder nor such a model, or no network.
    """
    folder = Path(path)
    if folder.exists() or folder.parent.exists() or not NAME.fullmatch(str(path)):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path), allow_patterns=list(FILES)))
    except Exception as error:
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{path}: there is no such folder, and it could not be had from huggingface.co ({first[:200]}); "
            "check the name, or the network"
        ) from None
