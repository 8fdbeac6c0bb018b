"""Add control tokens to a model: ids in its tokenizer, and rows in its embedding.

A base model that never saw a chat lacks the tokens of chat templates ("<|im_start|>"). They need ids, and
rows that can be trained.

Source: Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021: rows at the mean of
all rows keep the distribution over the old words nearly as it was: a new token's logit is the mean of the old
logits, so it adds little to the denominator of the softmax.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch

from data_pipes.tokenizer.added_tokens_decoder import mark_special
from data_pipes.tokenizer.spec import vocabulary_size
from pure.nn.transformer import transformer
from stages.models.language_model import Pretrained
from stages.models.special_tokens import id_of, with_tokens

TABLES = ("embedding", "head")
"""Leaves with a row for each id; a tied model has only the first."""


def add_tokens(
    pretrained: Pretrained,
    tokens: Sequence[str],
    *,
    multiple: int = 1,
    say: Callable[[str], object] | None = None,
) -> Pretrained:
    """Adds control tokens to a model.

    A token of the vocabulary keeps its id and its row, and becomes special. Another one gets the next id; its
    row is the mean of the rows of all ids that the tokenizer had, in the embedding and, if it is not tied, in
    the head.

    Args:
        pretrained: the model; its params stay as they are.
        tokens: texts such as "<|im_start|>"; not empty, each once.
        multiple: the embedding is padded to a multiple of this many rows, >= 1, with copies of the mean.
        say: called with one line, the ids and the number of rows; None prints nothing.

    Returns:
        Pretrained. Padding rows of the embedding are used first, so that the model grows only if it must.

    Edge cases: without tokens the embedding is only padded. transformers' `resize_token_embeddings` adds
    noise (a normal distribution around the mean, with 1e-9 times the covariance of the rows); here there is
    none, since each row has a gradient of its own.

    Raises:
        ValueError: if a token is empty or given twice, or `multiple` is below 1.

    Example:
        >>> from data_pipes.tokenizer import train
        >>> from pure import random
        >>> from pure.config import ModelConfig
        >>> tokenizer = train(["a"], 260)
        >>> config = ModelConfig(vocab_size=260, hidden_size=8, num_attention_heads=2, num_key_value_heads=1)
        >>> model = transformer(config)
        >>> base = Pretrained(model, model.init(random.key(0)), tokenizer)
        >>> more = add_tokens(base, ["<|tool|>"], multiple=64)
        >>> more.model.config.vocab_size, id_of(more.tokenizer, "<|tool|>")
        (320, 260)
    """
    if multiple < 1 or "" in tokens or len({*tokens}) < len(tokens):
        raise ValueError(
            "add_tokens: expected tokens that are not empty, each once, and a multiple of at least 1; "
            f"got {list(tokens)} and {multiple}"
        )
    old_size = vocabulary_size(pretrained.tokenizer)
    tokenizer = mark_special(with_tokens(pretrained.tokenizer, tokens), {*tokens})
    size = vocabulary_size(tokenizer)
    needed = max(size, pretrained.model.config.vocab_size)
    rows = math.ceil(needed / multiple) * multiple
    params = dict(pretrained.params)
    for name in TABLES:
        if name in params:
            params[name] = _extend_table(params[name], old_size, size, rows)
    config = dataclasses.replace(pretrained.model.config, vocab_size=rows)
    extended = pretrained._replace(model=transformer(config), params=params, tokenizer=tokenizer)
    if say is not None:
        say(_report(pretrained, extended, tokens))
    return extended


def check_flags(tokens: Sequence[str], multiple: int, *, adapters: bool = False) -> None:
    """Refuses flags that cannot work with --add_tokens.

    Args:
        tokens: of --add_tokens.
        multiple: of --vocabulary_multiple.
        adapters: the run trains adapters (--lora or --qlora).

    Raises:
        ValueError: with adapters, which leave the embedding as it is; or for a multiple without tokens.
    """
    if tokens and adapters:
        raise ValueError(
            "--add_tokens with adapters: the rows of new tokens would never be trained; train the whole "
            "model (leave --lora and --qlora out), then train adapters on the result"
        )
    if multiple < 1 or (multiple > 1 and not tokens):
        raise ValueError(f"--vocabulary_multiple {multiple}: expected at least 1, and tokens (--add_tokens)")


def _report(before: Pretrained, after: Pretrained, tokens: Sequence[str]) -> str:
    """A line with the tokens' ids and the number of rows before and after."""
    ids = ", ".join(f"{token} = {id_of(after.tokenizer, token)}" for token in tokens)
    old, new = before.model.config.vocab_size, after.model.config.vocab_size
    size = f"{old:,} rows as before" if old == new else f"{old:,} rows became {new:,}"
    return f"new tokens: {ids}; {size}; new ids are initialised to the mean of the other rows"


def _extend_table(table: torch.Tensor, old_size: int, size: int, rows: int) -> torch.Tensor:
    """Extends a table [V, D] to [rows, D]; new rows are the mean of the first `old_size` rows.

    Rows of the new ids old_size..size may be padding rows that the table had already; they get the mean too.
    """
    mean = table[:old_size].float().mean(0).to(table.dtype)
    extended = torch.cat([table, mean.expand(rows - len(table), -1)])
    extended[old_size:size] = mean
    return extended
