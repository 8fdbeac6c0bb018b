"""Pairs of answers: what is trained on, how long ones are shortened, and the reference's
log-probabilities."""

from __future__ import annotations

import numpy as np
import torch

from data_pipes.chat.chat import CHATML, Encoded, chat_template
from data_pipes.chat.messages import Message, Preference, Unpaired
from data_pipes.preference import (
    Pair,
    encode_preferences,
    encode_unpaired,
    preference_pipe,
    unpaired_pipe,
    with_reference,
)
from data_pipes.table import describe
from pure import optim, random
from stages.dpo import dpo
from tests.data_pipes.chats import talk, tokenizer

TOKENIZER, TEMPLATE = tokenizer(), chat_template()


def answer(prompt: int, length: int) -> Encoded:
    return Encoded(np.arange(prompt + length) + 1, np.arange(prompt + length) >= prompt)


def test_only_the_answers_are_trained_on() -> None:
    """A turn of the assistant inside the prompt is not."""
    pair = encode_preferences(
        TEMPLATE, TOKENIZER, [Preference(talk("a", "b", "c"), talk("", "good")[1:], talk("", "bad")[1:], "n")]
    )[0]
    for side, text in (("chosen", "good"), ("rejected", "bad")):
        found = getattr(pair, side)
        assert TOKENIZER.decode(found.tokens[found.trained]) == f"{text}<|im_end|>"


def test_labels_are_shifted_and_padded() -> None:
    batch = preference_pipe([Pair(answer(2, 3), answer(2, 1))], batch_size=2, length=6, key=0)[0]
    assert batch["chosen_tokens"].tolist() == [[1, 2, 3, 4, 0, 0], [0] * 6]
    assert batch["chosen_labels"].tolist() == [[-100, 3, 4, 5, -100, -100], [-100] * 6]
    assert batch["rejected_labels"].tolist() == [[-100, 3, -100, -100, -100, -100], [-100] * 6]
    assert batch["row"].tolist() == [0, -1]


def test_the_prompt_is_shortened_from_the_left_before_an_answer_is_cut() -> None:
    pipe = preference_pipe(
        [Pair(answer(6, 3), answer(6, 2)), Pair(answer(2, 9), answer(2, 1))],
        batch_size=2,
        length=5,
        key=None,
        shuffle=False,
    )
    batch = pipe[0]
    assert pipe.truncated == 2
    assert batch["chosen_tokens"][0].tolist() == [4, 5, 6, 7, 8]
    assert batch["chosen_labels"][0].tolist() == [-100, -100, 7, 8, 9]
    assert batch["rejected_tokens"][0].tolist() == [4, 5, 6, 7, 0]
    assert batch["chosen_labels"][1].tolist() == [3, 4, 5, 6, 7]
    assert batch["rejected_labels"][1].tolist() == [3, -100, -100, -100, -100]


def test_pairs_that_are_equal_once_they_are_cut_are_dropped_and_counted() -> None:
    a, b = answer(2, 9), answer(2, 9)
    b.tokens[-1] = 99
    pipe = preference_pipe(
        [Pair(a, b), Pair(a, answer(2, 3))], batch_size=2, length=5, key=None, shuffle=False
    )
    assert (pipe.dropped, pipe.truncated) == (1, 2)
    assert pipe[0]["row"].tolist() == [1, -1]
    whole = preference_pipe([Pair(a, b), Pair(a, a)], batch_size=2, length=12, key=None, shuffle=False)
    assert whole.dropped == 1
    assert whole[0]["row"].tolist() == [0, -1]


def test_the_reference_beside_the_batch_is_the_one_computed_in_the_step() -> None:
    from tests.laws.test_stages import small, transformer

    model = transformer(small())
    reference = model.init(random.key(5))
    pairs = [Pair(answer(2, 1 + i % 4), answer(2, 1 + (i + 1) % 4)) for i in range(7)]
    pipe = preference_pipe(pairs, batch_size=3, length=6, key=0)
    given = with_reference(pipe, model, reference, batch_size=2)
    assert describe(given) != describe(pipe)
    state = dpo(model, optim.sgd(0.1)).init(random.key(0))
    for number in range(len(pipe)):
        before, after = pipe[number], given[number]
        assert (after["reference_chosen"][after["row"] < 0] == 0).all()
        inside = dpo(model, optim.sgd(0.1), reference=reference).step(state, before)
        outside = dpo(model, optim.sgd(0.1)).step(state, after)
        torch.testing.assert_close(outside.metrics, inside.metrics, rtol=1e-5, atol=1e-6)


def test_single_answers_keep_their_label() -> None:
    given = [
        Unpaired(talk("a"), talk("", "good")[1:], True, "1"),
        Unpaired(talk("a"), talk("", "bad")[1:], False, "2"),
    ]
    encoded = encode_unpaired(TEMPLATE, TOKENIZER, given)
    batch = unpaired_pipe(encoded, batch_size=3, length=30, key=None, shuffle=False)[0]
    assert batch["desirable"].tolist() == [True, False, False]
    assert [int((labels != -100).sum()) > 0 for labels in batch["labels"]] == [True, True, False]


STRICT = chat_template(
    "{% if messages[-1].content == 'no' %}{{ raise_exception('not no') }}{% endif %}" + CHATML
)


def test_a_pair_is_left_out_once_whichever_side_is_refused() -> None:
    given = [
        Preference(talk("q"), (Message("assistant", a),), (Message("assistant", b),), "n")
        for a, b in [("x", "y"), ("no", "no"), ("x", "no"), ("u", "v")]
    ]
    bad: list[int] = []
    found = encode_preferences(STRICT, TOKENIZER, given, on_error=lambda number, error: bad.append(number))
    assert bad == [1, 2]
    assert [TOKENIZER.decode(pair.rejected.tokens[pair.rejected.trained]) for pair in found] == [
        "y<|im_end|>",
        "v<|im_end|>",
    ]
    single = [Unpaired(pair.prompt, pair.rejected, True, "n") for pair in given]
    bad.clear()
    assert (
        len(encode_unpaired(STRICT, TOKENIZER, single, on_error=lambda number, error: bad.append(number)))
        == 2
    )
    assert bad == [1, 2]
