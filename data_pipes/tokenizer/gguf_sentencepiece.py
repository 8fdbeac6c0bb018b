"""The tokenizer of Llama 2's kind inside a GGUF file: pieces with scores, from which the merges are
recovered.

SentencePiece keeps no merges: of two neighbours whose joined text is a piece, those with the best score merge
first. So every way of cutting a piece into two pieces is a merge, in the order of the pieces' scores.

Source: `llm_tokenizer_spm` of llama.cpp; transformers 5.23, `generate_merges` and, for a text that begins
with spaces, the tokenizer of Phi-3 (a mark is always put in front, as SentencePiece does).
"""

from __future__ import annotations

from collections.abc import Sequence

from data_pipes.tokenizer.bpe import Pair
from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.spec import AddedToken, Tokenizer, TokenizerSpec
from data_pipes.tokenizer.split import ANY_TEXT
from data_pipes.tokenizer.step import step

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of tokens."""

MARKED = step("Replace", pattern=("String", " "), content="▁")
JOINED = (step("Replace", pattern=("String", "▁"), content=" "), step("ByteFallback"), step("Fuse"))


def from_pieces(
    tokens: Sequence[str],
    scores: Sequence[float],
    kinds: Sequence[int],
    *,
    space_first: bool = True,
    prefix: tuple[int, ...] = (),
) -> Tokenizer:
    """Makes a tokenizer of pieces.

    Args:
        tokens: in the order of their ids; a space is written "▁".
        scores: of each; larger ones merge first.
        kinds: NORMAL, ... of each. Control tokens and the unknown token are special; those of the user are
            found whole.
        space_first: a text gets a space in front.
        prefix: ids before a text, by `template`.

    Returns:
        A Tokenizer on characters; one that is no piece becomes its bytes, or the unknown token.

    Raises:
        ValueError: if the lists are not equally long, or there are two unknown tokens.

    Example:
        >>> made = from_pieces(["<unk>", "▁", "a", "▁a"], [0.0, -2.0, -3.0, -1.0], [2, 1, 1, 1])
        >>> made.encode("a a"), made.decode([3, 3])
        ([3, 3], 'a a')
    """
    unknown = [token for token, kind in zip(tokens, kinds, strict=False) if kind == UNKNOWN]
    if not len(tokens) == len(scores) == len(kinds) or len(unknown) > 1:
        raise ValueError(
            f"the tokenizer is damaged: {len(tokens)} tokens, {len(scores)} scores, {len(kinds)} kinds, and "
            f"{len(unknown)} unknown tokens, of which there is one at most"
        )
    added = tuple(
        AddedToken(token, i, special=kind != USER)
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (UNKNOWN, CONTROL, USER)
    )
    before = (step("Prepend", prepend="▁"),) if space_first else ()
    return from_spec(
        TokenizerSpec(
            kind="character",
            vocab=tuple(tokens),
            merges=tuple(recover_merges(tokens, scores, kinds)),
            pattern=ANY_TEXT,
            added_tokens=added,
            normalizer=(*before, MARKED),
            unk_token=unknown[0] if unknown else None,
            fuse_unk=bool(unknown),
            byte_fallback=True,
            prefix=prefix,
            decoder=(*JOINED, *((step("Strip", content=" ", start=1, stop=0),) if space_first else ())),
        )
    )


def recover_merges(tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> list[Pair]:
    """Recovers the merges: the best score first, then longer parts, then smaller ids.

    No merge spells a token that is not NORMAL, so that plain text never becomes a control token.

    Example:
        >>> recover_merges(["a", "b", "c", "ab", "bc", "abc"], [-9, -9, -9, -2, -1, -3], [1] * 6)
        [('b', 'c'), ('a', 'b'), ('ab', 'c'), ('a', 'bc')]
    """
    ids = {token: i for i, token in enumerate(tokens)}
    found = []
    for token, score, kind in zip(tokens, scores, kinds, strict=True):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))] if kind == NORMAL else []
        pairs = sorted((ids[a], ids[b]) for a, b in cuts if a in ids and b in ids)
        found += [(score, tokens[a], tokens[b]) for a, b in pairs]
    found.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [(a, b) for _, a, b in found]
