"""The description of a tokenizer (`TokenizerSpec`), and the functions made from it (`Tokenizer`).

The description holds everything that decides an id, and nothing else, so two tokenizers are equal exactly
if their specs are. This file only holds data: `bpe` and `byte_level` explain the algorithm, `trainer` makes a
spec from text, `encoder` makes functions from a spec, `json_writer` writes it as Hugging Face's
tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from data_pipes.tokenizer import decoder as decoders
from data_pipes.tokenizer.byte_level import ALPHABET
from data_pipes.tokenizer.normalizer import normalizer
from data_pipes.tokenizer.split import ANY_TEXT, check_pattern
from data_pipes.tokenizer.step import Step

KINDS = ("byte_level", "character")


class AddedToken(NamedTuple):
    """A token that is found in the text before BPE runs, and is never merged.

    Fields:
        content: its text, such as "<|endoftext|>".
        id: its index in the vocabulary.
        special: True for a control token, which `encode` finds in text only if `special=` allows it; False
            for ordinary text with an id of its own, which is always found.
        normalized: True: it is found in the normalised text; False: in the text as given.
        lstrip: white space before it belongs to it.
        rstrip: white space after it belongs to it.
        single_word: find it only if no letter, digit or underscore is adjacent.
    """

    content: str
    id: int
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """Describes a BPE tokenizer completely; frozen, hashable and comparable.

    Args:
        kind: "byte_level" (text -> UTF-8 bytes -> 256 printable characters -> BPE) or "character" (BPE on the
            text, as in the tokenizers of Llama 2, Mistral and Gemma, which SentencePiece trained).
        vocab: tokens in the order of their ids. A byte-level token is written in the 256 characters.
        merges: pairs of tokens, the earliest merged first.
        pattern: split pattern: a name of `split.PATTERNS`, or a regular expression (`ANY_TEXT` does not
            split).
        added_tokens: special and other added tokens, by ascending id. Those that are not in `vocab` have the
            ids after it, without a gap.
        normalizer: steps that change the text first, such as Unicode's normal form C (`step.NFC`); then
            decode gives back the normal form.
        pre_tokenizer: steps that split the text before `pattern` does.
        prefix_space: "byte_level" only: prepend a space to the text, or to each piece that `pre_tokenizer`
            gives, if it does not begin with one.
        ignore_merges: a word that is in the vocabulary becomes that token, whatever the merges give.
        unk_token: the token for characters outside the vocabulary; None makes them an error.
        fuse_unk: consecutive unknown characters become one `unk_token`.
        byte_fallback: a character outside the vocabulary becomes the tokens of its bytes, "<0x00>" to
            "<0xFF>".
        continuing_subword_prefix: written before every character of a word but the first ("##").
        end_of_word_suffix: written after the last character of a word ("</w>").
        prefix: ids before the text with `encode(..., template=True)`, such as a beginning-of-text token.
        suffix: ids after it.
        pair: template of two texts: a sequence of ids and of "A" and "B", which stand for the texts; None:
            prefix and suffix around each. It is only written to tokenizer.json: nothing here encodes pairs.
        decoder: steps that decode tokens; None is the kind's default.

    Raises:
        ValueError: if a part contradicts another; the message names the token and what to change.

    Example:
        >>> fields = {"vocab": ("a", "b", "ab"), "merges": (("a", "b"),), "pattern": "gpt2"}
        >>> TokenizerSpec(kind="character", **fields) == TokenizerSpec(kind="character", **fields)
        True
    """

    kind: str
    vocab: tuple[str, ...] = field(repr=False)
    merges: tuple[tuple[str, str], ...] = field(repr=False)
    pattern: str
    added_tokens: tuple[AddedToken, ...] = ()
    normalizer: tuple[Step, ...] = ()
    pre_tokenizer: tuple[Step, ...] = ()
    prefix_space: bool = False
    ignore_merges: bool = False
    unk_token: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    continuing_subword_prefix: str = ""
    end_of_word_suffix: str = ""
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    pair: tuple[int | str, ...] | None = None
    decoder: tuple[Step, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"TokenizerSpec: kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        check_pattern(self.pattern)
        if not self.continuing_subword_prefix.isascii():
            raise ValueError(
                "TokenizerSpec: continuing_subword_prefix must be ASCII, got "
                f"{self.continuing_subword_prefix!r}"
            )
        ids = _check_vocab(self.vocab)
        _check_merges(self.merges, ids, self.continuing_subword_prefix)
        _check_added(self.added_tokens, ids)
        _check_unk(self, ids)
        if self.prefix_space and (self.kind != "byte_level" or self.pattern not in ("gpt2", ANY_TEXT)):
            raise ValueError(
                'TokenizerSpec: prefix_space is for byte-level tokenizers with the pattern "gpt2" or none, '
                f"got kind {self.kind!r} and pattern {self.pattern!r:.60}; use a Metaspace step"
            )
        size = len(self.vocab) + sum(token.content not in ids for token in self.added_tokens)
        if not size:
            raise ValueError("TokenizerSpec: the vocabulary is empty; train one, or give vocab")
        for i in (*self.prefix, *self.suffix, *(i for i in self.pair or () if i not in ("A", "B"))):
            if type(i) is not int or not 0 <= i < size:
                raise ValueError(
                    f"TokenizerSpec: prefix, suffix and pair hold ids, 0 ... {size - 1}; got {i!r}"
                )


class Tokenizer(NamedTuple):
    """A tokenizer as pure functions; picklable.

    Fields:
        spec: the description it was built from; compare specs, not tokenizers.
        encode: (text, *, special="none", template=False) -> list[int].
        decode: (ids, *, skip_special=False, errors="replace") -> str.
        encode_batch: (texts, *, special="none", template=False) -> list of [n] int32 arrays.
    """

    spec: TokenizerSpec
    encode: Callable[..., list[int]]
    decode: Callable[..., str]
    encode_batch: Callable[..., list]

    def __repr__(self) -> str:
        """The description without its vocabulary and merges."""
        return f"Tokenizer({len(self.spec.vocab)} tokens, {len(self.spec.merges)} merges, {self.spec})"


def token_ids(spec: TokenizerSpec) -> dict[str, int]:
    """Returns {token of the vocabulary: id}, without the added tokens that are not in `spec.vocab`."""
    return {token: i for i, token in enumerate(spec.vocab)}


def token_texts(spec: TokenizerSpec) -> dict[int, str]:
    """Returns {id: text of the token for decoding}; added tokens with `normalized` are normalised."""
    return dict(enumerate(spec.vocab)) | {
        token.id: _decoded_content(spec, token) for token in spec.added_tokens
    }


def hidden_ids(spec: TokenizerSpec) -> frozenset[int]:
    """Returns the ids that `skip_special` leaves out: special tokens that normalisation does not change."""
    return frozenset(t.id for t in spec.added_tokens if t.special and _decoded_content(spec, t) == t.content)


def decoder_steps(spec: TokenizerSpec) -> tuple[Step, ...]:
    """Returns the steps that decode tokens."""
    if spec.decoder is not None:
        return spec.decoder
    return decoders.BYTE_LEVEL if spec.kind == "byte_level" else decoders.JOINED


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Returns the number of ids, which is the number of rows of an embedding.

    Example:
        >>> spec = TokenizerSpec(kind="character", vocab=("a",), merges=(), pattern="gpt2",
        ...                      added_tokens=(AddedToken("<|end|>", 1),))
        >>> vocabulary_size(Tokenizer(spec, None, None, None))
        2
    """
    spec = tokenizer.spec
    return max([len(spec.vocab), *(token.id + 1 for token in spec.added_tokens)])


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Returns {special token: id}, in the order of the spec."""
    return {token.content: token.id for token in tokenizer.spec.added_tokens if token.special}


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """Returns the id of a special token such as "<|endoftext|>".

    Raises:
        KeyError: if the tokenizer has no such special token; the message lists those it has.

    Example:
        >>> spec = TokenizerSpec(kind="character", vocab=("a",), merges=(), pattern="gpt2",
        ...                      added_tokens=(AddedToken("<|end|>", 1),))
        >>> special_id(Tokenizer(spec, None, None, None), "<|end|>")
        1
    """
    known = special_tokens(tokenizer)
    if token not in known:
        raise KeyError(
            f"special_id: no special token {token!r}; this tokenizer has {', '.join(known) or 'none'}. "
            "Name it in train(..., special_tokens=...) or add it with add_special_tokens(tokenizer, ...)"
        )
    return known[token]


def _decoded_content(spec: TokenizerSpec, token: AddedToken) -> str:
    """An added token as it is decoded."""
    return normalizer(spec.normalizer)(token.content) if token.normalized else token.content


def _check_text(token: object, where: str) -> None:
    """A token must be a non-empty string that UTF-8 can encode."""
    if not isinstance(token, str) or not token:
        raise ValueError(f"TokenizerSpec: {where} must be a non-empty string, got {token!r}")
    try:
        token.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"TokenizerSpec: {where} {token!r} holds half of a surrogate pair, not a character"
        ) from None


def _check_vocab(vocab: tuple[str, ...]) -> dict[str, int]:
    """Tokens must be strings and differ; returns {token: id}."""
    ids: dict[str, int] = {}
    for i, token in enumerate(vocab):
        _check_text(token, f"the token with id {i}")
        if token in ids:
            raise ValueError(
                f"TokenizerSpec: the token {token!r} has two ids, {ids[token]} and {i}; keep one"
            )
        ids[token] = i
    return ids


def _check_merges(merges: tuple[tuple[str, str], ...], ids: dict[str, int], prefix: str) -> None:
    """A merge must join two tokens into a third; the second loses its `continuing_subword_prefix`."""
    for rank, pair in enumerate(merges):
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f"TokenizerSpec: merge {rank} must be a pair of tokens, got {pair!r}")
        for token in (*pair, pair[0] + pair[1][len(prefix) :]):
            if token not in ids:
                raise ValueError(
                    f"TokenizerSpec: merge {rank} {pair!r} needs the token {token!r}, which is not in vocab"
                )


def _check_added(added: tuple[AddedToken, ...], ids: dict[str, int]) -> None:
    """Added tokens must differ, stand in order, and have the vocabulary's ids or those that follow it."""
    following, last = len(ids), -1
    for token in added:
        _check_text(token.content, "an added token")
        expected = ids.get(token.content, following)
        if type(token.id) is not int or token.id != expected:
            why = "its id in vocab" if token.content in ids else "the next free one"
            raise ValueError(
                f"TokenizerSpec: added token {token.content!r} must have id {expected}, {why}; got "
                f"{token.id!r}"
            )
        if token.id <= last:
            raise ValueError(f"TokenizerSpec: added tokens must ascend in id, got {token.id} after {last}")
        following, last = following + (token.content not in ids), token.id
    contents = [token.content for token in added]
    if len({*contents}) < len(contents):
        raise ValueError(f"TokenizerSpec: an added token is given twice; got {contents}; keep one of each")


def _check_unk(spec: TokenizerSpec, ids: dict[str, int]) -> None:
    """An unknown token must be in the vocabulary, unless nothing can be unknown."""
    if spec.unk_token is None:
        if spec.fuse_unk:
            raise ValueError("TokenizerSpec: fuse_unk=True needs an unk_token; give one, or fuse_unk=False")
        return
    _check_text(spec.unk_token, "unk_token")
    complete = spec.kind == "byte_level" and all(character in ids for character in ALPHABET)
    fallback = spec.byte_fallback and all(f"<0x{byte:02X}>" in ids for byte in range(256))
    if spec.unk_token not in ids and not complete and not fallback:
        raise ValueError(
            f"TokenizerSpec: unk_token {spec.unk_token!r} is not in the vocabulary; add it to vocab"
        )
