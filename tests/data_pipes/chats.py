"""A small tokenizer with the control tokens of chats, and conversations for the tests."""

from __future__ import annotations

from typing import Any

from data_pipes.chat.messages import Message, Messages
from data_pipes.tokenizer.trainer import train

CONTROLS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
]


def tokenizer() -> Any:
    """Train a byte-level tokenizer on a few words."""
    return train(["the cat sat on the mat and the dog sat on the cat"] * 3, 300, special_tokens=CONTROLS)


def talk(*contents: str) -> Messages:
    """Turns of user and assistant, one after the other."""
    return tuple(Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents))
