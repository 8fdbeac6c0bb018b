"""Read tokenizer_config.json: its table of added tokens, and settings that tokenizer.json must share.

Source: transformers 5.23, `PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipes.tokenizer.added_tokens_decoder import add_token_table, mark_special, prepends_space
from data_pipes.tokenizer.spec import AddedToken, Tokenizer


def with_decoder(
    fields: Mapping[str, Any], tokenizer: Tokenizer, named: Mapping[str, str], where: Path
) -> Tokenizer:
    """Adds the tokens of added_tokens_decoder.

    Args:
        fields: fields of tokenizer_config.json.
        tokenizer: the tokenizer of tokenizer.json.
        named: {"eos_token": text, ...}; those that the table lists (or tokenizer.json, if there is no table)
            become special.
        where: the file, for the message.

    Returns:
        The tokenizer that transformers builds from both files.

    Raises:
        ValueError: if the table is damaged, or gives a token another id than tokenizer.json.
    """
    table = _decoder(fields, where)
    try:
        extended = add_token_table(tokenizer, table)
    except ValueError as error:
        raise ValueError(f"{where}: added_tokens_decoder.{error}") from None
    listed = table.values() if "added_tokens_decoder" in fields else tokenizer.spec.added_tokens
    return mark_special(extended, {token.content for token in listed} & {*named.values()})


def _decoder(fields: Mapping[str, Any], where: Path) -> dict[int, AddedToken]:
    """added_tokens_decoder as a table."""
    table = fields.get("added_tokens_decoder") or {}
    if not isinstance(table, Mapping) or not all(str(name).isdecimal() for name in table):
        raise ValueError(f"{where}: added_tokens_decoder must be a table of ids, got {table!r:.100}")
    return {
        int(name): _read_token(value, int(name), f"added_tokens_decoder.{name}", where)
        for name, value in table.items()
    }


def _read_token(value: Any, i: int, field: str, where: Path) -> AddedToken:
    """One token of added_tokens_decoder."""
    content = text_of(value, where, field)
    options = dict(value) if isinstance(value, Mapping) else {}
    flags = {
        name: options.pop(name, name == "normalized" and not options.get("special", False))
        for name in ("normalized", "special", "lstrip", "rstrip", "single_word")
    }
    unknown = options.keys() - {"content", "__type", "id"}
    if unknown or not all(type(flag) is bool for flag in flags.values()):
        raise ValueError(
            f"{where}: {field} must have a content and flags that are true or false, got {value!r:.200}"
        )
    return AddedToken(content, i, **flags)


def check_settings(fields: Mapping[str, Any], tokenizer: Tokenizer, where: Path) -> None:
    """Refuses settings of tokenizer_config.json that change ids or text and contradict tokenizer.json.

    Args:
        fields: fields of tokenizer_config.json. `clean_up_tokenization_spaces` is accepted: transformers 5
            ignores it for BPE.
        tokenizer: the tokenizer of tokenizer.json.
        where: the file, for the message.

    Raises:
        ValueError: if they contradict; the message names the field.
    """
    space = fields.get("add_prefix_space")
    if isinstance(space, bool) and space != prepends_space(tokenizer.spec):
        raise ValueError(
            f"{where}: add_prefix_space is {str(space).lower()}, but tokenizer.json says the opposite; "
            "make both the same"
        )
    if fields.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"):
        raise ValueError(f"{where}: cleaning up spaces of a BPE tokenizer is not supported; remove the field")


def text_of(value: Any, where: Path, field: str) -> str:
    """Reads a token: a text, or an object with its content.

    Args:
        value: value of the field.
        where: the file, for the message.
        field: name of the field, for the message.

    Returns:
        The text.

    Raises:
        ValueError: for any other value, or an empty text.
    """
    content = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(content, str) or not content:
        raise ValueError(f"{where}: {field} must be a text or an object with a content, got {value!r:.100}")
    return content
