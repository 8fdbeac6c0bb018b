"""A (context, ending) pair whose probability is asked for, as ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from data_pipes.tokenizer.spec import Tokenizer
from pure.types import Model


class Request(NamedTuple):
    """An ending whose probability after a context is wanted; ids, neither of them empty."""

    context: tuple[int, ...]
    ending: tuple[int, ...]


def beginning(model: Model) -> int | None:
    """The id that documents begin with, from which their first token is predicted: bos, or else eos, or
    None."""
    config = model.config
    return config.eos_token_id if config.bos_token_id is None else config.bos_token_id


def encode_text(tokenizer: Tokenizer, text: str, *, prefix: int | None, special: str = "none") -> list[int]:
    """Encodes a text as lm-evaluation-harness does.

    What the tokenizer puts around a text (a bos token) is put there, unless the text begins with the token
    that stands before documents already.

    Args:
        tokenizer: of the model.
        text: any.
        prefix: id of that token (`stages.models.text_prompt.prefix_token`), or None.
        special: as in the tokenizer's encode.

    Returns:
        Ids.

    Source: lm-evaluation-harness, `HFLM.tok_encode`.
    """
    begun = prefix is not None and text.startswith(tokenizer.decode([prefix]))
    return tokenizer.encode(text, special=special, template=not begun)


def encode_pairs(
    tokenizer: Tokenizer, context: str, endings: Sequence[str], *, prefix: int | None, special: str = "none"
) -> list[Request]:
    """Encodes a context, and each of its endings as what the two have together after as many tokens as it
    has.

    Encoded apart, the two could become tokens that no text has. White space at the end of the context belongs
    to the ending, as tokens begin with it. What the tokenizer puts around a text stands around a context
    (`encode_text`).

    Args:
        tokenizer: of the model.
        context: may be empty.
        endings: texts that follow it; none empty.
        prefix: id that stands for an empty context (`beginning`).
        special: as in the tokenizer's encode: which control tokens a text may contain.

    Returns:
        One Request an ending.

    Raises:
        ValueError: if an ending is empty, or has no token of its own, or the context is empty and there is no
            prefix.

    Source: lm-evaluation-harness, `TemplateLM._encode_pair` and `loglikelihood`.
    """
    if "" in endings:
        raise ValueError(
            f"encode_pairs: an ending behind {context[-40:]!r} is empty; there is nothing to score"
        )
    bare = context.rstrip()
    texts = [context[len(bare) :] + ending for ending in endings]
    if not bare:
        return [_from_nothing(tuple(tokenizer.encode(text, special=special)), prefix) for text in texts]
    encode = partial(encode_text, tokenizer, prefix=prefix, special=special)
    before, found = tuple(encode(bare)), []
    for text in texts:
        ending = tuple(encode(bare + text))[len(before) :]
        if not ending:
            raise ValueError(
                f"encode_pairs: the ending {text[:40]!r} has no token of its own behind {bare[-40:]!r}"
            )
        found.append(Request(before, ending))
    return found


def fit(request: Request, most: int, number: int) -> Request:
    """Cuts off what is too much on the left of a request. Its last token is never read, so there may be one
    more.

    Args:
        request: to be read.
        most: tokens that the model sees at once.
        number: of the request, for the message.

    Returns:
        Request of at most most + 1 tokens.

    Raises:
        ValueError: if a part is empty, or the ending alone is longer.
    """
    if not request.context or not request.ending:
        raise ValueError(f"log_likelihoods: request {number} has an empty part; give each at least one token")
    if len(request.ending) > most:
        raise ValueError(
            f"log_likelihoods: the ending of request {number} has {len(request.ending)} tokens, the model sees {most}"
        )
    return request._replace(context=request.context[-(most + 1 - len(request.ending)) :])


def _from_nothing(ids: tuple[int, ...], prefix: int | None) -> Request:
    """An ending after the prefix, which it may bring itself."""
    if prefix is None:
        raise ValueError(
            "encode_pairs: the context is empty, and the model has neither a bos nor an eos token; give some context"
        )
    return Request(ids[:1], ids[1:]) if ids[0] == prefix and len(ids) > 1 else Request((prefix,), ids)
