"""Encode plain texts as prompts, with one bos token where the tokenizer adds one."""

from __future__ import annotations

from pure.types import Model
from stages.models import special_tokens
from stages.models.language_model import Pretrained, named_tokens


def encode_prompt(base: Pretrained, text: str, *, special: str = "none") -> list[int]:
    """Encodes a text to be continued, as transformers' `tokenizer(text)` does.

    Args:
        base: a model.
        text: the prompt.
        special: as in the tokenizer's encode: with "all", the text of a control token becomes that token, and
            a text that begins with the bos token gets no second one.

    Returns:
        Ids, with those that the post_processor of tokenizer.json adds before and after a text.
    """
    ids = base.tokenizer.encode(text, special=special)
    before, after = base.tokenizer.spec.prefix, base.tokenizer.spec.suffix
    has_prefix = bool(before) and tuple(ids[: len(before)]) == before
    return [*(() if has_prefix else before), *ids, *after]


def prefix_token(base: Pretrained) -> int | None:
    """Returns the id from which the first token of a document is predicted.

    As in lm-evaluation-harness it is the tokenizer's bos_token, or else its eos_token; where no file names
    one, the configuration's bos or eos; None if there is none.
    """
    named = named_tokens(base)
    ids = [special_tokens.id_of(base.tokenizer, named.get(name)) for name in ("bos_token", "eos_token")]
    return next((i for i in ids if i is not None), default_prefix(base.model))


def default_prefix(model: Model) -> int | None:
    """Returns the prefix token of a model without tokenizer files: its configuration's bos, or else eos."""
    config = model.config
    return config.eos_token_id if config.bos_token_id is None else config.bos_token_id
