"""`data_pipes.prompts`: batches are full, and prompts that are too long are refused or truncated."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipes.chat.chat import chat_template
from data_pipes.chat.messages import Prompt
from data_pipes.prompts import prompt_pipe
from data_pipes.record_encoding import encode_prompts
from tests.data_pipes.chats import talk, tokenizer

PROMPTS = [np.arange(n) + 10 * n for n in (3, 1, 5, 2)]


def test_an_encoded_prompt_ends_with_the_assistant_header() -> None:
    small_tokenizer = tokenizer()
    found = encode_prompts(chat_template(), small_tokenizer, [Prompt(talk("Hi"), {}, "n")])[0]
    assert small_tokenizer.decode(found) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_every_batch_is_full_and_each_prompt_comes_once_an_epoch() -> None:
    pipe = prompt_pipe(PROMPTS, batch_size=3, length=5, key=0, epochs=2)
    rows = np.concatenate([batch["row"].numpy() for batch in pipe])
    assert len(pipe) == 3
    assert (rows >= 0).all()
    assert sorted(rows[:4]) == sorted(rows[4:8]) == [0, 1, 2, 3]
    for batch in pipe:
        for row, length, number in zip(batch["prompts"], batch["lengths"], batch["row"], strict=True):
            assert row[:length].tolist() == PROMPTS[number].tolist()
            assert (row[length:] == 0).all()


def test_long_prompts_are_refused_or_truncated_from_the_left() -> None:
    with pytest.raises(ValueError, match="prompt 2 has 5 tokens, and length is 4"):
        prompt_pipe(PROMPTS, batch_size=2, length=4, key=0)
    pipe = prompt_pipe(PROMPTS, batch_size=4, length=4, key=None, shuffle=False, truncate="left")
    assert pipe[0]["prompts"][2].tolist() == [51, 52, 53, 54]
    assert pipe.truncated == 1


def test_empty_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        prompt_pipe([PROMPTS[0], np.zeros(0, int)], batch_size=1, length=4, key=0, truncate="left")
