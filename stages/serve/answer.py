"""Answers in OpenAI's form: whole ones, and the chunks of a stream.

Source: OpenAI's API reference, chat completions and completions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from stages.serve.request import Wanted
from stages.serve.row import Piece, Token
from stages.serve.token_text import readable


class Heading(NamedTuple):
    """Fields that every answer and every chunk of a request has.

    Fields:
        id: the answer's.
        created: seconds since 1970.
        model: the model's name.
        fingerprint: what else decides the tokens of a seed: weights, versions, shapes.
        is_chat: a chat completion, or a completion of plain text.
    """

    id: str
    created: int
    model: str
    fingerprint: str
    is_chat: bool


BytesOf = Callable[[int], bytes]
"""id -> bytes of the token (`stages.serve.token_text.token_bytes`)."""


def make_answer(heading: Heading, wanted: Wanted, rows: Sequence[Piece], bytes_of: BytesOf) -> dict[str, Any]:
    """Make the answer to a request that is not streamed.

    Args:
        heading: the request's.
        wanted: the request.
        rows: all pieces of each row, joined.
        bytes_of: bytes of a token.

    Returns:
        The JSON object.
    """
    choices = []
    for index, piece in enumerate(rows):
        choice = _make_choice(heading, wanted, index, piece, bytes_of)
        if heading.is_chat:
            choice["message"] = {"role": "assistant", "content": piece.text, "refusal": None}
        else:
            choice["text"] = piece.text
        choices.append(choice)
    kind = "chat.completion" if heading.is_chat else "text_completion"
    usage = count_tokens(wanted, [piece.sampled for piece in rows])
    return {**_head(heading, wanted, kind), "choices": choices, "usage": usage}


def make_chunk(
    heading: Heading, wanted: Wanted, index: int, piece: Piece, bytes_of: BytesOf, *, first: bool = False
) -> dict[str, Any]:
    """Make a chunk of a stream.

    Args:
        heading: as in `make_answer`.
        wanted: as in `make_answer`.
        index: the row's.
        piece: the next of the row.
        bytes_of: as in `make_answer`.
        first: the chunk is the row's first, which names the role in a chat.

    Returns:
        The JSON object.
    """
    choice = _make_choice(heading, wanted, index, piece, bytes_of)
    if heading.is_chat:
        delta = {"role": "assistant"} if first else {}
        if piece.text or first:
            delta["content"] = piece.text
        choice["delta"] = delta
    else:
        choice["text"] = piece.text
    kind = "chat.completion.chunk" if heading.is_chat else "text_completion"
    usage: dict[str, Any] = {"usage": None} if wanted.with_usage else {}
    return {**_head(heading, wanted, kind), "choices": [choice], **usage}


def make_usage_chunk(heading: Heading, wanted: Wanted, counts: Sequence[int]) -> dict[str, Any]:
    """Make the last chunk of a stream with usage, which has no choices."""
    kind = "chat.completion.chunk" if heading.is_chat else "text_completion"
    return {**_head(heading, wanted, kind), "choices": [], "usage": count_tokens(wanted, counts)}


def count_tokens(wanted: Wanted, counts: Sequence[int]) -> dict[str, int]:
    """Return the tokens of a request, stop tokens included; a prompt with several completions counts once."""
    new = sum(counts)
    return {
        "prompt_tokens": wanted.prompt_tokens,
        "completion_tokens": new,
        "total_tokens": wanted.prompt_tokens + new,
    }


def _head(heading: Heading, wanted: Wanted, kind: str) -> dict[str, Any]:
    """Return the fields that are the same in every chunk; the seed is ours, the others OpenAI's."""
    return {
        "id": heading.id,
        "object": kind,
        "created": heading.created,
        "model": heading.model,
        "system_fingerprint": heading.fingerprint,
        "seed": wanted.seed,
    }


def _make_choice(
    heading: Heading, wanted: Wanted, index: int, piece: Piece, bytes_of: BytesOf
) -> dict[str, Any]:
    """Return the fields of a choice without its text."""
    logprobs = None
    if wanted.logprobs:
        describe = _describe_chat_tokens if heading.is_chat else _describe_text_tokens
        logprobs = describe(piece.tokens, bytes_of)
    return {"index": index, "logprobs": logprobs, "finish_reason": piece.finish}


def _describe_chat_tokens(tokens: Sequence[Token], bytes_of: BytesOf) -> dict[str, Any]:
    """Log-probabilities in the form of chat completions."""

    def describe(id: int, logprob: float) -> dict[str, Any]:
        data = bytes_of(id)
        return {"token": readable(data), "logprob": logprob, "bytes": list(data)}

    content = []
    for token in tokens:
        top = [describe(id, logprob) for id, logprob in token.top]
        content.append({**describe(token.id, token.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


def _describe_text_tokens(tokens: Sequence[Token], bytes_of: BytesOf) -> dict[str, Any]:
    """Log-probabilities in the form of completions; offsets count characters of the completion.

    The sampled token is always listed too. Of tokens with equal text, the likeliest has it for its name, and
    the others "token_id:ID".
    """

    def text(id: int) -> str:
        data = bytes_of(id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def describe(token: Token) -> dict[str, float]:
        top: dict[str, float] = {}
        for id, logprob in {**dict(token.top), token.id: token.logprob}.items():
            name = text(id)
            top[f"token_id:{id}" if name in top else name] = logprob
        return top

    return {
        "tokens": [text(token.id) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [describe(token) for token in tokens],
        "text_offset": [token.start for token in tokens],
    }
