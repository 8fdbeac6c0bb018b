"""Read and write a model's special tokens: their names (bos_token, ...), and the ids that end an answer.

Four files name them. config.json and generation_config.json hold ids, `eos_token_id` one or several;
tokenizer_config.json holds texts by name; special_tokens_map.json is its older form.

Source: transformers 5.23, `PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes import files
from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.spec import AddedToken, Tokenizer, token_ids, vocabulary_size
from stages.models import tokenizer_config
from stages.models.tokenizer_config import text_of

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, LEGACY = "tokenizer_config.json", "special_tokens_map.json"

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Names of tokens that every tokenizer may have; another name that ends in "_token" is a model's own."""

LISTS = ("extra_special_tokens", "additional_special_tokens")
"""Fields of further tokens: a list, or (the first, in transformers 5) a table of names."""

NOT_WRITTEN = ("auto_map", "name_or_path", "special_tokens_map_file", "tokenizer_file")
"""Fields that a save leaves out, as that of transformers does: a reference to code, and paths of the machine
that wrote them."""


class SpecialTokens(NamedTuple):
    """The special tokens of a model, as its files name them.

    Fields:
        named: (name, text) pairs, such as ("bos_token", "<s>"); None where no file names any.
        config_ends: all ids of config.json's eos_token_id.
        generation: fields of generation_config.json, or None.
        tokenizer: fields of tokenizer_config.json without the chat template, or None.
        turn_ends: ids that end a turn in the templates that the model was trained with here.
    """

    named: tuple[tuple[str, str], ...] | None = None
    config_ends: tuple[int, ...] = ()
    generation: Mapping[str, Any] | None = None
    tokenizer: Mapping[str, Any] | None = None
    turn_ends: tuple[int, ...] = ()


NONE = SpecialTokens()
"""Special tokens of a model that was created here, not read from a folder."""


def read(
    folder: Path, tokenizer: Tokenizer, rows: int, *, base: SpecialTokens = NONE
) -> tuple[SpecialTokens, Tokenizer]:
    """Reads the files of a folder.

    Args:
        folder: folder of a model, or of adapters.
        tokenizer: the tokenizer that was read from it.
        rows: number of rows of the embedding.
        base: special tokens of the adapters' base, used where a file is missing.

    Returns:
        (SpecialTokens, the tokenizer with every token that a file names). A named token that the tokenizer
        lacks gets the next id, as in transformers.

    Raises:
        ValueError: for a file that is no JSON object, an id or a token of another type, or an id or a token
            without a row in the embedding; it names the file and the field.
    """
    config, generation = (_fields(folder / name) for name in (CONFIG, GENERATION))
    fields = _fields(folder / TOKENIZER)
    legacy = _fields(folder / LEGACY)
    if legacy is not None and "added_tokens_decoder" not in (fields or {}):
        fields = {**(fields or {}), **legacy}
    special = base
    if config is not None:
        special = special._replace(config_ends=end_ids(config.get("eos_token_id"), rows, folder / CONFIG))
    if generation is not None:
        end_ids(generation.get("eos_token_id"), rows, folder / GENERATION)
        special = special._replace(generation=generation)
    if fields is None:
        return special, tokenizer
    named, others = _named_tokens(fields, folder / TOKENIZER)
    kept = {name: value for name, value in fields.items() if name != "chat_template"}
    tokenizer_config.check_settings(fields, tokenizer, folder / TOKENIZER)
    listed = tokenizer_config.with_decoder(fields, tokenizer, named, folder / TOKENIZER)
    extended = with_tokens(listed, [*named.values(), *others])
    if vocabulary_size(extended) > max(rows, vocabulary_size(tokenizer)):
        new = [token.content for token in extended.spec.added_tokens if token.id >= rows]
        raise ValueError(
            f"{folder / TOKENIZER}: names {', '.join(map(repr, new))}, which tokenizer.json lacks, and "
            f"the embedding of {rows} rows has no room for; name a token that there is, or remove the field"
        )
    return special._replace(named=tuple(named.items()), tokenizer=kept), extended


def end_ids(value: Any, rows: int, where: Any) -> tuple[int, ...]:
    """Reads `eos_token_id`.

    Args:
        value: an id, a list of ids, or None; -1 stands for no id.
        rows: number of rows of the embedding.
        where: the file, for the message.

    Returns:
        The ids, each once.

    Raises:
        ValueError: for anything else, and for an id without a row in the embedding.

    Example:
        >>> end_ids([7, 5, 7], 9, "config.json"), end_ids(5, 9, ""), end_ids(None, 9, ""), end_ids(-1, 9, "")
        ((7, 5), (5,), (), ())
    """
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    for i in ids:
        if type(i) is not int or not -1 <= i < rows:
            raise ValueError(
                f"{where}: eos_token_id must be an id below {rows}, the rows of the embedding, a list of "
                f"such ids, or null; got {value!r}"
            )
    return tuple(dict.fromkeys(i for i in ids if i >= 0))


def with_tokens(tokenizer: Tokenizer, tokens: Iterable[str]) -> Tokenizer:
    """Makes each of these texts a special token.

    Args:
        tokenizer: the tokenizer to extend.
        tokens: texts. An added token stays as it is; a token of the vocabulary keeps its id; any other text
            gets the next free id.

    Returns:
        The same tokenizer if nothing is to be added, or else a new one with more added tokens.
    """
    spec = tokenizer.spec
    known = {token.content for token in spec.added_tokens}
    ids = {token: i for i, token in enumerate(spec.vocab)}
    next_id, new = vocabulary_size(tokenizer), []
    for text in dict.fromkeys(tokens):
        if text not in known:
            new.append(AddedToken(text, ids.get(text, next_id)))
            if text not in ids:
                next_id += 1
    if not new:
        return tokenizer
    return from_spec(
        replace(spec, added_tokens=tuple(sorted([*spec.added_tokens, *new], key=lambda t: t.id)))
    )


def names_of(special: SpecialTokens, tokenizer: Tokenizer, ids: Mapping[str, int | None]) -> dict[str, str]:
    """Returns {name: text} of the special tokens.

    Args:
        special: the model's special tokens.
        tokenizer: the model's tokenizer.
        ids: {"bos_token": id, ...} of the configuration, used if the model's files name no tokens.
    """
    if special.named is not None:
        return dict(special.named)
    texts = texts_of(tokenizer)
    return {name: texts[i] for name, i in ids.items() if i is not None and i in texts}


def texts_of(tokenizer: Tokenizer) -> dict[int, str]:
    """Returns {id: text} of every token; of an added token, as it is written in a text."""
    return dict(enumerate(tokenizer.spec.vocab)) | {
        token.id: token.content for token in tokenizer.spec.added_tokens
    }


def id_of(tokenizer: Tokenizer, text: str | None) -> int | None:
    """Returns the id of a token's text, or None if there is none."""
    if text is None:
        return None
    added = {token.content: token.id for token in tokenizer.spec.added_tokens}
    return added[text] if text in added else token_ids(tokenizer.spec).get(text)


def generation_ends(special: SpecialTokens) -> tuple[int, ...]:
    """Returns the ids at which transformers stops.

    They are those of generation_config.json, or of config.json if there is no such file, and those that end a
    turn in the templates that the model was trained with here.
    """
    own = special.config_ends
    if special.generation is not None:
        value = special.generation.get("eos_token_id")
        own = tuple(i for i in (value if isinstance(value, list) else [value]) if i is not None and i >= 0)
    return tuple(dict.fromkeys([*own, *special.turn_ends]))


def tokenizer_fields(special: SpecialTokens, length: int) -> dict[str, Any]:
    """Returns the fields of tokenizer_config.json, without the names of tokens.

    Args:
        special: a model's special tokens; all fields that were read are kept, except those of NOT_WRITTEN.
        length: the context length in tokens, written for a model that was created here.
    """
    if special.tokenizer is None:
        return {"model_max_length": length, "clean_up_tokenization_spaces": False}
    fields = {name: value for name, value in special.tokenizer.items() if name not in NOT_WRITTEN}
    new, old = LISTS
    if isinstance(fields.get(new), list) and not fields.get(old):
        fields[old] = fields.pop(new)  # transformers 4 takes a list by the old name only, 5 by both
    return fields


def generation_fields(
    special: SpecialTokens, ids: Mapping[str, int | None], turn: int | None
) -> dict[str, Any]:
    """Returns the fields of generation_config.json.

    A model that was created here stops at its eos token and at ChatML's turn end; one that was read stops as
    its files say, and at the turn ends that it was trained with here.

    Args:
        special: a model's special tokens.
        ids: {"bos_token": id, ...} of its configuration.
        turn: the id of ChatML's turn end, if its tokenizer has one.
    """
    fields: Mapping[str, Any] = {f"{name}_id": i for name, i in ids.items() if i is not None}
    ends = generation_ends(special)
    if special == NONE._replace(turn_ends=special.turn_ends):  # created here
        ends = tuple(dict.fromkeys(i for i in (ids["eos_token"], turn, *special.turn_ends) if i is not None))
    elif special.generation is not None:
        fields = special.generation
    return {**fields, "eos_token_id": one_or_many(ends)} if ends else dict(fields)


def one_or_many(ids: Sequence[int]) -> int | list[int] | None:
    """Writes ids as `eos_token_id` has them.

    Example:
        >>> one_or_many([]), one_or_many([3]), one_or_many([3, 5])
        (None, 3, [3, 5])
    """
    if not ids:
        return None
    return list(ids) if len(ids) > 1 else ids[0]


def _fields(path: Path) -> dict[str, Any] | None:
    """The fields of a JSON file; None if there is no file."""
    return files.read_json(path) if path.is_file() else None


def _named_tokens(fields: Mapping[str, Any], where: Path) -> tuple[dict[str, str], list[str]]:
    """({name: text}, further texts)."""
    own = [
        name for name, value in fields.items() if name.endswith("_token") and isinstance(value, str | Mapping)
    ]
    named = {
        name: text_of(fields[name], where, name)
        for name in dict.fromkeys([*NAMES, *own])
        if fields.get(name) not in (None, "")
    }
    others: list[str] = []
    for field in LISTS:
        value = fields.get(field) or []
        if isinstance(value, Mapping):
            named |= {name: text_of(x, where, f"{field}.{name}") for name, x in value.items()}
        elif isinstance(value, list):
            others += [text_of(x, where, field) for x in value]
        else:
            raise ValueError(
                f"{where}: {field} must be a list of tokens or a table of names, got {value!r:.100}"
            )
        if value:
            break  # transformers reads the older name only where the newer one is missing or empty
    return named, others
