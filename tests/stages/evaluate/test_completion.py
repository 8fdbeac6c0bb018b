"""`complete`: a completion depends on its prompt, number and seed, not on the other prompts of its batch."""

from __future__ import annotations

import pytest

from pure.generation.sampling import Sampling
from stages.evaluate.completion import Decoding, complete
from tests.stages.evaluate.small_model import small_model

LOADED = small_model(64)[:3]
PROMPTS = [LOADED[2].encode(text) for text in ("def add(a", "Question: what", "x", "Answer: B C D")]
GREEDY = Sampling(12, temperature=0.0)
NUMBERS = [(0, 0), (1, 0), (1, 1), (7, 3)]  # (question, sample)


def test_a_completion_is_the_same_alone_and_in_a_batch() -> None:
    sampled = Decoding(Sampling(12), seed=3)
    batch = complete(*LOADED, PROMPTS, NUMBERS, sampled)
    for prompt, number, found in zip(PROMPTS, NUMBERS, batch, strict=True):
        assert complete(*LOADED, [prompt], [number], sampled) == [found]
    assert len({found.text for found in batch}) == 4


def test_samples_differ_by_question_number_and_seed() -> None:
    sampled = Decoding(Sampling(12))
    texts = [found.text for found in complete(*LOADED, [PROMPTS[0]] * 3, [(0, 0), (0, 1), (1, 0)], sampled)]
    assert len(set(texts)) == 3
    other = complete(*LOADED, [PROMPTS[0]], [(0, 0)], Decoding(Sampling(12), seed=1))
    assert other[0].text != texts[0]


def test_stop_strings_end_a_completion_and_long_prompts_lose_their_left() -> None:
    greedy = complete(*LOADED, [PROMPTS[0]], [(0, 0)], Decoding(GREEDY))[0]
    middle = greedy.text[2:4]
    stopped = complete(*LOADED, [PROMPTS[0]], [(0, 0)], Decoding(GREEDY, stop=(middle,)))[0]
    assert stopped.text == greedy.text[: greedy.text.index(middle)]
    assert (greedy.ended, stopped.ended) == (False, True)
    long = complete(*LOADED, [PROMPTS[0] * 20], [(0, 0)], Decoding(GREEDY))[0]
    assert long.dropped == len(PROMPTS[0]) * 20 - 52


def test_max_new_tokens_that_leave_no_room_for_a_prompt_are_refused() -> None:
    with pytest.raises(ValueError, match="max_new_tokens 64 leaves no room"):
        complete(*LOADED, PROMPTS, NUMBERS, Decoding(Sampling(64)))
