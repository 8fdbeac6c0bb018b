"""The text and the bytes of single tokens, as log-probabilities report them.

A token may hold a part of a character: its bytes are exact, its text then has U+FFFD.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from data_pipes.tokenizer import decoder as decoders
from data_pipes.tokenizer.byte_level import to_bytes
from data_pipes.tokenizer.spec import Tokenizer, decoder_steps, token_texts


def token_bytes(tokenizer: Tokenizer) -> Callable[[int], bytes]:
    """Return the function from an id to the token's bytes inside a text; an id without a token has none.

    Args:
        tokenizer: of any kind. Byte-level tokens and byte tokens ("<0xE2>") have their bytes; any other has
            what it adds to the text of a token before it.

    Returns:
        id -> bytes.

    Example:
        >>> from data_pipes.tokenizer.trainer import train
        >>> tokenizer = train(["é"], 256, special_tokens=[])
        >>> [token_bytes(tokenizer)(i) for i in tokenizer.encode("é")]
        [b'\\xc3', b'\\xa9']
    """
    texts = token_texts(tokenizer.spec)
    if decoder_steps(tokenizer.spec) == decoders.BYTE_LEVEL:
        return lambda id: to_bytes(texts.get(id, ""))
    return partial(_bytes_after, tokenizer, texts, min(texts))


def _bytes_after(tokenizer: Tokenizer, texts: dict[int, str], before: int, id: int) -> bytes:
    """Return the bytes that a token adds after another one."""
    byte = decoders.byte_of(texts.get(id, ""))
    if byte is not None:
        return bytes([byte])
    start = tokenizer.decode([before])
    return tokenizer.decode([before, id]).removeprefix(start).encode()


def readable(data: bytes) -> str:
    """Return the text of a token's bytes, with U+FFFD for parts of characters."""
    return data.decode(errors="replace")
