"""Read a SentencePiece tokenizer of a GGUF file (Llama 2): pieces with scores, which give the merges.

SentencePiece stores no merges: of all neighbours whose joined text is a piece, those with the best score
merge first. So every cut of a piece into two pieces is a merge, in the order of the pieces' scores.

Source: `llm_tokenizer_spm` of llama.cpp, and `generate_merges` of transformers 5.23. A text that begins with
spaces still gets "▁" in front, as in SentencePiece and in the tokenizer of Phi-3.
"""

from __future__ import annotations

from collections.abc import Sequence

from data_pipes.tokenizer.bpe import Pair, split_in_two
from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.spec import AddedToken, Tokenizer, TokenizerSpec
from data_pipes.tokenizer.split import ANY_TEXT
from data_pipes.tokenizer.step import Step, step

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens."""

REPLACE_SPACES = step("Replace", pattern=("String", " "), content="▁")
DECODER = (step("Replace", pattern=("String", "▁"), content=" "), step("ByteFallback"), step("Fuse"))
STRIP_FIRST_SPACE = step("Strip", content=" ", start=1, stop=0)


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
        kinds: of each: NORMAL, UNKNOWN and so on. Control tokens and the unknown token are special;
            user-defined tokens are added tokens.
        space_first: put a space in front of a text.
        prefix: ids before a text, with `template=True`.

    Returns:
        A Tokenizer on characters; a character that is no piece becomes its bytes, or the unknown token.

    Raises:
        ValueError: if the lists are not equally long, or there are two unknown tokens.

    Example:
        >>> tokenizer = from_pieces(["<unk>", "▁", "a", "▁a"], [0.0, -2.0, -3.0, -1.0], [2, 1, 1, 1])
        >>> tokenizer.encode("a a"), tokenizer.decode([3, 3])
        ([3, 3], 'a a')
    """
    unknown = [token for token, kind in zip(tokens, kinds, strict=False) if kind == UNKNOWN]
    if not len(tokens) == len(scores) == len(kinds) or len(unknown) > 1:
        raise ValueError(
            f"the tokenizer is damaged: {len(tokens)} tokens, {len(scores)} scores, {len(kinds)} kinds, and "
            f"{len(unknown)} unknown tokens (at most one); download the file again"
        )
    added = tuple(
        AddedToken(token, i, special=kind != USER)
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (UNKNOWN, CONTROL, USER)
    )
    normalizer: tuple[Step, ...] = (REPLACE_SPACES,)
    decoder: tuple[Step, ...] = DECODER
    if space_first:
        normalizer, decoder = (step("Prepend", prepend="▁"), REPLACE_SPACES), (*DECODER, STRIP_FIRST_SPACE)
    return from_spec(
        TokenizerSpec(
            kind="character",
            vocab=tuple(tokens),
            merges=tuple(recover_merges(tokens, scores, kinds)),
            pattern=ANY_TEXT,
            added_tokens=added,
            normalizer=normalizer,
            unk_token=unknown[0] if unknown else None,
            fuse_unk=bool(unknown),
            byte_fallback=True,
            prefix=prefix,
            decoder=decoder,
        )
    )


def recover_merges(tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> list[Pair]:
    """Derives the merges: the best score first, then longer parts, then smaller ids.

    No merge spells a token that is not NORMAL, so that plain text never becomes a control token.

    Example:
        >>> recover_merges(["a", "b", "c", "ab", "bc", "abc"], [-9, -9, -9, -2, -1, -3], [1] * 6)
        [('b', 'c'), ('a', 'b'), ('ab', 'c'), ('a', 'bc')]
    """
    ids = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token, score, kind in zip(tokens, scores, kinds, strict=True):
        if kind == NORMAL:
            merges += [(score, tokens[a], tokens[b]) for a, b in split_in_two(token, ids)]
    merges.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [(a, b) for _, a, b in merges]
