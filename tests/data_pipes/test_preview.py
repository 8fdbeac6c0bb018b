"""`preview`: pieces of kind "trained" (shown in green) are the tokens with a label, in every batch."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipes.chat.chat import chat_template, encode_chat
from data_pipes.preference import preference_pipe
from data_pipes.preview import preview
from data_pipes.prompts import prompt_pipe
from data_pipes.record_encoding import Pair
from data_pipes.sft import sft_pipe
from tests.data_pipes.chats import talk, tokenizer

TOKENIZER, TEMPLATE = tokenizer(), chat_template()
letters = st.text("abc ", min_size=1, max_size=9)


@given(st.lists(st.tuples(letters, letters), min_size=1, max_size=6), st.booleans())
@settings(max_examples=30, deadline=None)
def test_assistant_text_is_of_kind_trained(chats: list[tuple[str, str]], packing: bool) -> None:
    examples = [encode_chat(TEMPLATE, TOKENIZER, talk(*chat)) for chat in chats]
    pipe = sft_pipe(examples, batch_size=4, length=60, key=0, packing=packing)
    pieces = []
    for batch in pipe:
        for row in preview(batch, TOKENIZER.decode):
            pieces.extend(row)
    assert sorted(p.text for p in pieces if p.kind == "trained") == sorted(
        f"{answer}<|im_end|>" for _, answer in chats
    )
    assert all(p.text.startswith("<|im_start|>user\n") for p in pieces if p.kind == "read")


def test_both_answers_of_a_pair_are_shown() -> None:
    sides = [encode_chat(TEMPLATE, TOKENIZER, talk("q", answer)) for answer in ("good", "bad")]
    rows = preview(preference_pipe([Pair(*sides)], batch_size=1, length=40, key=0)[0], TOKENIZER.decode)
    assert [row[-1].text for row in rows] == ["good<|im_end|>", "bad<|im_end|>"]
    assert [row[-1].kind for row in rows] == ["trained", "trained"]


def test_a_prompt_without_answer_is_shown() -> None:
    pipe = prompt_pipe([encode_chat(TEMPLATE, TOKENIZER, talk("q")).tokens], batch_size=1, length=40, key=0)
    assert preview(pipe[0], TOKENIZER.decode)[0][0].text == "<|im_start|>user\nq<|im_end|>\n"


def test_the_last_label_is_shown_after_the_last_token() -> None:
    batch = {"tokens": torch.tensor([[65, 66]]), "labels": torch.tensor([[66, 67]])}
    assert [p.text for p in preview(batch, lambda ids: "".join(map(chr, ids)))[0]] == ["A", "BC"]
