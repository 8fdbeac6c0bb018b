"""Questions with one right answer: what is asked, judged and kept. What is written: test_harness.py."""

from __future__ import annotations

import pytest

from data_pipes.answers.match import QuestionAnswer
from pure.generation.sampling import Sampling
from stages.evaluate.completion import Decoding
from stages.evaluate.exact_match import JUDGES, exact_match, summarize
from stages.evaluate.task import run_task
from tests.stages.evaluate.small_model import small

ROWS = [QuestionAnswer("1 + 1?", "2", "a:1"), QuestionAnswer("1 + 2?", "3", "a:2")]
GREEDY = Decoding(Sampling(max_new_tokens=6, temperature=0.0))


def test_the_completion_is_compared() -> None:
    """Asked again with its own answers for the right ones, it is right."""
    loaded = small()[:3]
    first = run_task(exact_match(*loaded, ROWS, decoding=GREEDY, judges=JUDGES["text"]))
    assert first.figures["exact_match/text"].value == 0.0
    own = [row._replace(answer=s["output"]) for row, s in zip(ROWS, first.samples, strict=True)]
    again = run_task(exact_match(*loaded, own, decoding=GREEDY, judges=JUDGES["text"]))
    assert again.figures["exact_match/text"].value == 1.0
    assert [s["score"] for s in again.samples] == [1.0, 1.0]


def test_examples_stand_before_the_question() -> None:
    task = exact_match(*small()[:3], ROWS[:1], decoding=GREEDY, judges=JUDGES["gsm8k"], examples=ROWS[1:])
    found = run_task(task)
    assert found.samples[0]["prompt"] == "Question: 1 + 2?\nAnswer: 3\n\nQuestion: 1 + 1?\nAnswer:"
    assert set(found.figures) == {"exact_match/strict", "exact_match/flexible"}


def test_a_custom_prompt_format() -> None:
    loaded = small()[:3]
    task = exact_match(
        *loaded,
        ROWS,
        decoding=GREEDY,
        judges=JUDGES["number"],
        encode=lambda question: loaded[2].encode(f"<{question}>"),
    )
    found = run_task(task)
    assert [s["prompt"] for s in found.samples] == ["<1 + 1?>", "<1 + 2?>"]
    assert [s["question"] for s in found.samples] == ["1 + 1?", "1 + 2?"]
    with pytest.raises(ValueError, match="examples are shown in the plain format only"):
        exact_match(
            *loaded, ROWS, decoding=GREEDY, judges=JUDGES["text"], examples=ROWS, encode=loaded[2].encode
        )


def test_the_share_by_each_judge() -> None:
    samples = [
        {"verdicts": {"strict": False, "flexible": True}},
        {"verdicts": {"strict": True, "flexible": True}},
    ]
    found = summarize(samples, judges=("strict", "flexible"))
    assert (found["exact_match/strict"].value, found["exact_match/flexible"].value) == (0.5, 1.0)
