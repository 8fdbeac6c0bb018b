"""`data_pipes.preference`: labels of answers, truncation, and reference log-probabilities."""

from __future__ import annotations

import numpy as np
import torch

from data_pipes.chat.chat import CHATML, Encoded, chat_template
from data_pipes.chat.messages import Message, Preference, Unpaired
from data_pipes.preference import preference_pipe, truncate_sides, unpaired_pipe, with_reference
from data_pipes.record_encoding import Pair, encode_preferences, encode_unpaired
from data_pipes.table import describe
from pure import optim, random
from stages.dpo import dpo
from tests.data_pipes.chats import talk, tokenizer

TOKENIZER, TEMPLATE = tokenizer(), chat_template()


def encoded(prompt: int, length: int) -> Encoded:
    """Tokens 1, 2, 3, ...: `prompt` untrained ones, then `length` trained ones."""
    return Encoded(np.arange(prompt + length) + 1, np.arange(prompt + length) >= prompt)


def test_only_the_answers_are_trained_on() -> None:
    """Not on an assistant turn inside the prompt."""
    pair = encode_preferences(
        TEMPLATE, TOKENIZER, [Preference(talk("a", "b", "c"), talk("", "good")[1:], talk("", "bad")[1:], "n")]
    )[0]
    for side, text in (("chosen", "good"), ("rejected", "bad")):
        found = getattr(pair, side)
        assert TOKENIZER.decode(found.tokens[found.trained]) == f"{text}<|im_end|>"


def test_labels_are_shifted_and_padded() -> None:
    batch = preference_pipe([Pair(encoded(2, 3), encoded(2, 1))], batch_size=2, length=6, key=0)[0]
    assert batch["chosen_tokens"].tolist() == [[1, 2, 3, 4, 0, 0], [0] * 6]
    assert batch["chosen_labels"].tolist() == [[-100, 3, 4, 5, -100, -100], [-100] * 6]
    assert batch["rejected_labels"].tolist() == [[-100, 3, -100, -100, -100, -100], [-100] * 6]
    assert batch["row"].tolist() == [0, -1]


def test_the_prompt_is_shortened_from_the_left_before_an_answer_is_cut() -> None:
    pipe = preference_pipe(
        [Pair(encoded(6, 3), encoded(6, 2)), Pair(encoded(2, 9), encoded(2, 1))],
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


def test_sides_keep_one_token_of_the_prompt_and_lose_the_same_tokens() -> None:
    """Both lose as many tokens of the prompt as the longer one needs, and no more than the shorter has."""
    (chosen, rejected), was_cut = truncate_sides([encoded(6, 3), encoded(6, 2)], 5)
    assert (chosen.tokens.tolist(), rejected.tokens.tolist()) == ([4, 5, 6, 7, 8, 9], [4, 5, 6, 7, 8])
    assert chosen.trained.tolist() == [False] * 3 + [True] * 3
    assert was_cut
    (chosen, rejected), _ = truncate_sides([encoded(6, 9), encoded(3, 2)], 5)
    assert (chosen.tokens.tolist(), rejected.tokens.tolist()) == ([3, 4, 5, 6, 7, 8], [3, 4, 5])
    (answer,), was_cut = truncate_sides([encoded(0, 9)], 5)  # without a prompt, on the right only
    assert (answer.tokens.tolist(), was_cut) == ([1, 2, 3, 4, 5, 6], True)


def test_tokens_after_an_answer_are_dropped_only_when_room_is_needed() -> None:
    """They are not trained on, so a side that is too long only by them counts as uncut."""
    side = Encoded(np.arange(7), np.array([False, False, True, True, False, False, False]))
    (unchanged,), was_cut = truncate_sides([side], 6)
    assert len(unchanged.tokens) == 7
    assert not was_cut
    (shortened,), was_cut = truncate_sides([side], 4)
    assert shortened.tokens.tolist() == [0, 1, 2, 3]
    assert not was_cut


def test_pairs_that_truncation_makes_equal_are_dropped_and_counted() -> None:
    chosen, rejected = encoded(2, 9), encoded(2, 9)
    rejected.tokens[-1] = 99
    pipe = preference_pipe(
        [Pair(chosen, rejected), Pair(chosen, encoded(2, 3))], batch_size=2, length=5, key=None, shuffle=False
    )
    assert (pipe.dropped, pipe.truncated) == (1, 2)
    assert pipe[0]["row"].tolist() == [1, -1]
    untruncated = preference_pipe(
        [Pair(chosen, rejected), Pair(chosen, chosen)], batch_size=2, length=12, key=None, shuffle=False
    )
    assert untruncated.dropped == 1
    assert untruncated[0]["row"].tolist() == [0, -1]


def test_dpo_with_precomputed_reference_equals_reference_in_the_step() -> None:
    from tests.laws.test_stages import small, transformer

    model = transformer(small())
    reference = model.init(random.key(5))
    pairs = [Pair(encoded(2, 1 + i % 4), encoded(2, 1 + (i + 1) % 4)) for i in range(7)]
    pipe = preference_pipe(pairs, batch_size=3, length=6, key=0)
    with_logps = with_reference(pipe, model, reference, batch_size=2)
    assert describe(with_logps) != describe(pipe)
    state = dpo(model, optim.sgd(0.1)).init(random.key(0))
    for number in range(len(pipe)):
        plain, precomputed = pipe[number], with_logps[number]
        assert (precomputed["reference_chosen"][precomputed["row"] < 0] == 0).all()
        expected = dpo(model, optim.sgd(0.1), reference=reference).step(state, plain)
        found = dpo(model, optim.sgd(0.1)).step(state, precomputed)
        torch.testing.assert_close(found.metrics, expected.metrics, rtol=1e-5, atol=1e-6)


def test_unpaired_answers_keep_their_label() -> None:
    given = [
        Unpaired(talk("a"), talk("", "good")[1:], True, "1"),
        Unpaired(talk("a"), talk("", "bad")[1:], False, "2"),
    ]
    encoded = encode_unpaired(TEMPLATE, TOKENIZER, given)
    batch = unpaired_pipe(encoded, batch_size=3, length=30, key=None, shuffle=False)[0]
    assert batch["desirable"].tolist() == [True, False, False]
    assert [int((labels != -100).sum()) > 0 for labels in batch["labels"]] == [True, True, False]


REFUSES_NO = chat_template(
    "{% if messages[-1].content == 'no' %}{{ raise_exception('not no') }}{% endif %}" + CHATML
)


def test_a_pair_is_skipped_once_if_either_side_is_refused() -> None:
    given = [
        Preference(talk("q"), (Message("assistant", a),), (Message("assistant", b),), "n")
        for a, b in [("x", "y"), ("no", "no"), ("x", "no"), ("u", "v")]
    ]
    bad: list[int] = []
    found = encode_preferences(
        REFUSES_NO, TOKENIZER, given, on_error=lambda number, error: bad.append(number)
    )
    assert bad == [1, 2]
    assert [TOKENIZER.decode(pair.rejected.tokens[pair.rejected.trained]) for pair in found] == [
        "y<|im_end|>",
        "v<|im_end|>",
    ]
    single = [Unpaired(pair.prompt, pair.rejected, True, "n") for pair in given]
    bad.clear()
    assert (
        len(encode_unpaired(REFUSES_NO, TOKENIZER, single, on_error=lambda number, error: bad.append(number)))
        == 2
    )
    assert bad == [1, 2]
