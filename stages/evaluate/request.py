"""A (context, continuation) pair to score, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from data_pipes.tokenizer.spec import Tokenizer


class Request(NamedTuple):
    """A continuation to score after its context: ids, both non-empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


def encode_text(tokenizer: Tokenizer, text: str, *, prefix: int | None, special: str = "none") -> list[int]:
    """Encode a text as lm-evaluation-harness does.

    The tokens that the tokenizer adds around a text (a bos token) are added, unless the text already begins
    with the prefix.

    Args:
        tokenizer: of the model.
        text: any.
        prefix: id that documents begin with (`stages.models.text_prompt.prefix_token`), or None.
        special: as in the tokenizer's encode.

    Returns:
        Ids.

    Source: lm-evaluation-harness, `HFLM.tok_encode`.
    """
    has_prefix = prefix is not None and text.startswith(tokenizer.decode([prefix]))
    return tokenizer.encode(text, special=special, template=not has_prefix)


def encode_pairs(
    tokenizer: Tokenizer,
    context: str,
    continuations: Sequence[str],
    *,
    prefix: int | None,
    special: str = "none",
) -> list[Request]:
    """Encode a context with each of its continuations.

    The context alone gives n ids. Context and continuation are then encoded as one text, and the ids after
    the first n are the continuation: encoded separately, they could give ids that are not the encoding of any
    text. White space at the end of the context is moved to the continuation, since tokens begin with it. The
    tokens that the tokenizer adds around a text are added to the context (`encode_text`).

    Args:
        tokenizer: of the model.
        context: may be empty.
        continuations: texts that follow it; none empty.
        prefix: id that replaces an empty context (`stages.models.text_prompt.default_prefix`).
        special: as in the tokenizer's encode: which control tokens a text may contain.

    Returns:
        One Request per continuation.

    Raises:
        ValueError: if a continuation is empty or adds no token to the context's, or the context is empty and
            there is no prefix.

    Source: lm-evaluation-harness, `TemplateLM._encode_pair` and `loglikelihood`.
    """
    if "" in continuations:
        raise ValueError(
            f"encode_pairs: a continuation of {context[-40:]!r} is empty; give each at least one character"
        )
    stripped = context.rstrip()
    texts = [context[len(stripped) :] + text for text in continuations]
    if not stripped:
        return [
            _request_after_prefix(tuple(tokenizer.encode(text, special=special)), prefix) for text in texts
        ]
    encode = partial(encode_text, tokenizer, prefix=prefix, special=special)
    context_ids = tuple(encode(stripped))
    requests = []
    for text in texts:
        continuation = tuple(encode(stripped + text))[len(context_ids) :]
        if not continuation:
            raise ValueError(
                f"encode_pairs: the continuation {text[:40]!r} adds no token of its own to the context "
                f"{stripped[-40:]!r}; make it longer, or begin it with a space"
            )
        requests.append(Request(context_ids, continuation))
    return requests


def truncate_left(request: Request, max_length: int, index: int) -> Request:
    """Drop tokens on the left of a request that is too long for the model.

    The model never reads the last token, so a request may have one more token than the model reads.

    Args:
        request: to score.
        max_length: tokens that the model reads at once.
        index: of the request, for error messages.

    Returns:
        Request of at most max_length + 1 tokens.

    Raises:
        ValueError: if a part is empty, or the continuation alone is longer.
    """
    context, continuation = request
    if not context or not continuation:
        raise ValueError(f"log_likelihoods: request {index} has an empty part; give each at least one token")
    if len(continuation) > max_length:
        raise ValueError(
            f"log_likelihoods: the continuation of request {index} has {len(continuation)} tokens, but the "
            f"model reads at most {max_length}; shorten it"
        )
    return request._replace(context=context[-(max_length + 1 - len(continuation)) :])


def _request_after_prefix(ids: tuple[int, ...], prefix: int | None) -> Request:
    """Return a request whose context is the prefix; a prefix that the ids begin with is not repeated."""
    if prefix is None:
        raise ValueError(
            "encode_pairs: the context is empty, and the model has neither a bos nor an eos token; give some "
            "context"
        )
    if ids[0] == prefix and len(ids) > 1:
        return Request(ids[:1], ids[1:])
    return Request((prefix,), ids)
