"""Apply tokenizer_config.json's table of added tokens (`added_tokens_decoder`) to a tokenizer.

Source: transformers 5.23, `TokenizersBackend.__init__` and `_post_init`: the table decides the flags of its
tokens, and new ones get the next ids in its order. transformers ignores an id that differs; here such a
table is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.spec import AddedToken, Tokenizer, TokenizerSpec, token_ids, vocabulary_size
from data_pipes.tokenizer.step import step_options


def add_token_table(tokenizer: Tokenizer, table: Mapping[int, AddedToken]) -> Tokenizer:
    """Adds the tokens of a table, and sets the flags of existing ones to the table's.

    Args:
        tokenizer: to extend.
        table: id -> token.

    Returns:
        A tokenizer with these tokens. A special token stays special, whatever the table says.

    Raises:
        ValueError: if a token's id in the table is not its id in the tokenizer, or for a new token not the
            next free id; or if table and tokenizer give a special token different values of `normalized`.

    Example:
        >>> spec = TokenizerSpec(kind="character", vocab=("a",), merges=(), pattern="gpt2")
        >>> tokenizer = add_token_table(from_spec(spec), {1: AddedToken("<b>", 1, rstrip=True)})
        >>> tokenizer.encode("<b> a", special="all")
        [1, 0]
    """
    spec, size = tokenizer.spec, vocabulary_size(tokenizer)
    ids = token_ids(spec) | {token.content: token.id for token in spec.added_tokens}
    added = {token.content: token for token in spec.added_tokens}
    for i, token in sorted(table.items()):
        expected = ids.get(token.content, size)
        if i != expected:
            reason = "its id in tokenizer.json" if token.content in ids else "the next free one"
            raise ValueError(
                f"{i} is {token.content!r}, which must have id {expected}, {reason}; correct the table"
            )
        if token.content not in ids:
            size += 1
        ids[token.content] = i
        old = added.get(token.content)
        if old is not None and old.special and old.normalized != token.normalized:
            raise ValueError(
                f"{i} is {token.content!r}, a special token that tokenizer.json gives another `normalized`; "
                "make both the same"
            )
        added[token.content] = token._replace(
            id=i, special=token.special or (old is not None and old.special)
        )
    return _replace_added(tokenizer, added)


def mark_special(tokenizer: Tokenizer, contents: Collection[str]) -> Tokenizer:
    """Makes these added tokens special; others stay as they are."""
    added = {token.content: token for token in tokenizer.spec.added_tokens}
    special = {text: token._replace(special=True) for text, token in added.items() if text in contents}
    return _replace_added(tokenizer, added | special)


def prepends_space(spec: TokenizerSpec) -> bool:
    """Checks if encoding prepends a space, or "▁" in its place, to the text."""
    options_of_steps = [step_options(step) for step in (*spec.normalizer, *spec.pre_tokenizer)]
    return spec.prefix_space or any(
        options.get("add_prefix_space")
        or options.get("prepend_scheme") in ("always", "first")
        or options.get("prepend") in (" ", "▁")
        for options in options_of_steps
    )


def _replace_added(tokenizer: Tokenizer, added: Mapping[str, AddedToken]) -> Tokenizer:
    """Returns the tokenizer with exactly these added tokens."""
    tokens = tuple(sorted(added.values(), key=lambda token: token.id))
    if tokens == tokenizer.spec.added_tokens:
        return tokenizer
    return from_spec(replace(tokenizer.spec, added_tokens=tokens))
