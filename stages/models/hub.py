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
    """Returns the folder itself, or the downloaded copy if the path is a model's name at huggingface.co.

    Args:
        path: a folder, or "ORGANISATION/MODEL".

    Returns:
        A folder. If there is no such folder and `path` is not a model's name, it does not exist.

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
        first_line = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{path}: there is no such folder, and it could not be downloaded from huggingface.co "
            f"({first_line[:200]}); check the name, or the network"
        ) from None
