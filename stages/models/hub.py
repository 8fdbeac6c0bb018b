"""Find a model's folder by its name at huggingface.co."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

NAME = re.compile(r"[\w.-]+/[\w.-]+")
CARD = "README.md"
"""The model card."""

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
    "adapter_config.json",
    "base.json",
    "SHA256SUMS",
    CARD,
)
"""Files of a model, to download and to upload: patterns of `fnmatch`. SHA256SUMS verifies the others
(`stages.models.checksums`)."""


def is_model_file(name: str) -> bool:
    """Tells whether a file is one of FILES.

    Args:
        name: its path in the model's folder, with "/".

    Example:
        >>> is_model_file("model-00001-of-00002.safetensors"), is_model_file("pytorch_model.bin")
        (True, False)
    """
    return any(fnmatchcase(name, pattern) for pattern in FILES)


def is_name(path: str) -> bool:
    """Tells whether a path is a model's name on the hub: OWNER/NAME, and neither it nor OWNER is a path here.

    The answer holds for the current folder only: a run records it (`stages.run.config_file`).

    Example:
        >>> is_name("ada/model-1.5"), is_name("model"), is_name("./model"), is_name("/srv/ada")
        (True, False, False, False)
    """
    here = Path(path)
    is_here = here.exists() or here.parent.exists()
    return bool(NAME.fullmatch(path)) and not path.startswith(".") and not is_here


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
    if not is_name(str(path)):
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
