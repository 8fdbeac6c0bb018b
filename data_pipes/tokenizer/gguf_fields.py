"""Convert a byte-level tokenizer to the fields of a GGUF file: what `gguf_vocabulary` reads.

llama.cpp knows split patterns by name, so that only a tokenizer with such a pattern can be written.

Source: the GGUF specification; `llm_tokenizer_bpe` of llama.cpp.
"""

from __future__ import annotations

from typing import Any

from data_pipes.tokenizer import decoder as decoders
from data_pipes.tokenizer.bpe import apply_merges, rank_merges
from data_pipes.tokenizer.byte_level import ALPHABET
from data_pipes.tokenizer.gguf_sentencepiece import CONTROL, NORMAL, UNUSED, USER
from data_pipes.tokenizer.gguf_vocabulary import PATTERNS
from data_pipes.tokenizer.spec import TokenizerSpec, decoder_steps
from data_pipes.tokenizer.split import split_words, splitter
from data_pipes.tokenizer.step import NFC

UNSUPPORTED = (
    "pre_tokenizer", "prefix_space", "continuing_subword_prefix", "end_of_word_suffix", "suffix",
)  # fmt: skip
"""Fields that must be empty."""


def to_gguf(spec: TokenizerSpec, rows: int) -> dict[str, Any]:
    """Converts a tokenizer to the fields `tokenizer.ggml.*`.

    Args:
        spec: byte-level.
        rows: rows of the embedding; ids above the tokenizer's become the unused tokens "[PAD9]", as
            llama.cpp has a token for each row.

    Returns:
        Fields by name: model, pre, tokens, token_type, merges, add_bos_token.

    Raises:
        ValueError: for a tokenizer that llama.cpp has no form of; the field is named.
    """
    _refuse_others(spec)
    added = {token.id: token for token in spec.added_tokens}
    texts = [*spec.vocab, *(token.content for i, token in added.items() if i >= len(spec.vocab))]
    tokens = [*texts, *(f"[PAD{i}]" for i in range(len(texts), rows))]
    types = [NORMAL] * len(texts) + [UNUSED] * (len(tokens) - len(texts))
    for i, token in added.items():
        types[i] = CONTROL if token.special else USER
    _refuse_twins(tokens)
    _refuse_words(spec, pre := _pattern_name(spec))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in spec.merges],
        "tokenizer.ggml.add_bos_token": bool(spec.prefix),
    }


def _refuse_others(spec: TokenizerSpec) -> None:
    """Refuses what llama.cpp's byte-level BPE does not compute."""
    if spec.kind != "byte_level":
        raise _refusal("kind", spec.kind, "its tokens have no scores, which SentencePiece's form needs")
    for name in UNSUPPORTED:
        if getattr(spec, name):
            raise _refusal(name, getattr(spec, name), "llama.cpp has no such step")
    if len(spec.prefix) > 1:
        raise _refusal("prefix", spec.prefix, "llama.cpp adds the bos token alone")
    if decoder_steps(spec) != decoders.BYTE_LEVEL:
        raise _refusal("decoder", decoder_steps(spec), "llama.cpp decodes bytes alone")
    if spec.unk_token is not None and not set(ALPHABET) <= set(spec.vocab):
        raise _refusal("unk_token", spec.unk_token, "llama.cpp leaves out a byte that has no token")
    if not spec.merges:
        raise _refusal("merges", (), "llama.cpp needs one at least")
    for token in spec.added_tokens:
        for name in ("lstrip", "rstrip", "single_word", *(("normalized",) if spec.normalizer else ())):
            if getattr(token, name):
                raise _refusal(f"added token {token.content!r}: {name}", True, "a file has no such mark")


def _refuse_twins(tokens: list[str]) -> None:
    """Refuses two ids with one text, such as a padding row's and a token's; llama.cpp aborts on them."""
    first: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if first.setdefault(token, i) != i:
            raise _refusal(f"id {i}", token, f"id {first[token]} has the same text there")


def _refuse_words(spec: TokenizerSpec, pre: str) -> None:
    """Refuses a special token that is one word: with `ignore_merges` llama.cpp finds it in plain text."""
    pattern, _, ignore_merges = PATTERNS[pre]
    for token in spec.added_tokens:
        one_word = split_words(splitter(pattern), token.content) == [token.content]
        if ignore_merges and token.special and one_word:
            raise _refusal("special token", token.content, f"it is one word of {pre}, found in any text")


def _pattern_name(spec: TokenizerSpec) -> str:
    """llama.cpp's name of the split pattern, normal form and `ignore_merges`."""
    if spec.normalizer not in ((), NFC):
        raise _refusal("normalizer", spec.normalizer, "llama.cpp has none")
    wanted = (spec.pattern, bool(spec.normalizer))
    for name, (pattern, nfc, ignore_merges) in PATTERNS.items():
        if (pattern, nfc) == wanted and (ignore_merges == spec.ignore_merges or _merges_reach_all(spec)):
            return name
    known = ", ".join(
        dict.fromkeys(f"{pattern}{' after NFC' * nfc}" for pattern, nfc, _ in PATTERNS.values())
    )
    if spec.pattern in {pattern for pattern, _, _ in PATTERNS.values()} and not spec.normalizer:
        raise _refusal("ignore_merges", spec.ignore_merges, f"llama.cpp's {spec.pattern} has the other")
    raise _refusal("pattern", spec.pattern, f"llama.cpp has names for {known}")


def _merges_reach_all(spec: TokenizerSpec) -> bool:
    """Tells whether merges make every token of its own text, so that `ignore_merges` changes nothing."""
    ranks, added = rank_merges(spec.merges), {token.content for token in spec.added_tokens}
    return all(token in added or apply_merges(token, ranks) == (token,) for token in spec.vocab)


def _refusal(name: str, value: object, why: str) -> ValueError:
    """The error for a field that a GGUF file cannot carry."""
    return ValueError(
        f"tokenizer: {name} {value!r:.80} cannot be written as GGUF: {why}; take --format safetensors"
    )
