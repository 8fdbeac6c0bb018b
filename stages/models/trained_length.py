"""Keep the length of the rows that a model was pretrained on, in tokens.

A configuration may allow positions that training never reached: pretrained on rows of 128 tokens, a model
with a context of 256 has learned half of them. Longer rows of SFT do not change it. The length is a field
of tokenizer_config.json, beside model_max_length; transformers keeps a field that it does not know.
"""

from __future__ import annotations

from typing import Any

from stages.models.special_tokens import TOKENIZER, SpecialTokens

FIELD = "trained_length"
"""Name of the field of tokenizer_config.json."""


def read(special: SpecialTokens, context: int) -> int | None:
    """Returns the length of the longest rows that the model was pretrained on.

    Args:
        special: has the fields of tokenizer_config.json.
        context: the model's max_position_embeddings, tokens.

    Returns:
        Tokens, in 1 .. context; None if no file says it, as of a model of another library.

    Raises:
        ValueError: if the field is no such number.

    Example:
        >>> read(SpecialTokens(tokenizer={"trained_length": 128}), 256), read(SpecialTokens(), 256)
        (128, None)
    """
    length = (special.tokenizer or {}).get(FIELD)
    if length is None:
        return None
    if type(length) is not int or not 1 <= length <= context:
        raise ValueError(
            f"{TOKENIZER}: {FIELD} must be a number of tokens in 1 .. {context}, the model's context, got "
            f"{length!r:.40}; correct it, or take it out"
        )
    return length


def render(length: int | None) -> dict[str, Any]:
    """Returns the field for tokenizer_config.json; none for None."""
    return {} if length is None else {FIELD: length}


def extend(known: int | None, rows: int) -> int | None:
    """Returns the length after further training.

    Args:
        known: length before it; None is unknown, and stays so.
        rows: tokens of a row now; shorter rows do not take back what was learned.

    Example:
        >>> extend(128, 64), extend(128, 256), extend(None, 64)
        (128, 256, None)
    """
    return None if known is None else max(known, rows)
