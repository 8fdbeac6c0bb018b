"""Read the tokenizer, the special tokens and the chat templates of a model's folder."""

from __future__ import annotations

from pathlib import Path

from data_pipes import tokenizer as tokenizers
from pure.config import ModelConfig
from stages.models import special_tokens, template_files
from stages.models.special_tokens import NONE, SpecialTokens
from stages.models.template_files import Templates


def read(
    folder: Path, config: ModelConfig, base: SpecialTokens = NONE
) -> tuple[tokenizers.Tokenizer, SpecialTokens, Templates]:
    """Reads the tokenizer, special tokens and chat templates of a folder.

    Args:
        folder: with tokenizer.json.
        config: of the model.
        base: of the model that adapters in the folder belong to.

    Returns:
        (tokenizer, special tokens, chat templates).

    Raises:
        FileNotFoundError: if there is no tokenizer.
        ValueError: if a file is not understood; it is named.
    """
    tokenizer = tokenizers.load(folder)
    special, tokenizer = special_tokens.read(folder, tokenizer, config.vocab_size, base=base)
    return tokenizer, special, template_files.read(folder)
