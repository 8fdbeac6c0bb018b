"""`exact_match`: prompts, verdicts and scores. (Completions against lm-eval: test_harness.py.)"""

from __future__ import annotations

import pytest

from data_pipes.answers.match import QuestionAnswer
from pure.generation.sampling import Sampling
from stages.evaluate.completion import Decoding
from stages.evaluate.exact_match import JUDGES, exact_match, summarize
from stages.evaluate.task import run_task
from tests.stages.evaluate.small_model import small_model

ROWS = [QuestionAnswer("1 + 1?", "2", "a:1"), QuestionAnswer("1 + 2?", "3", "a:2")]
GREEDY = Decoding(Sampling(max_new_tokens=6, temperature=0.0))


def test_a_completion_scores_1_if_it_equals_the_answer() -> None:
    """In the second run, the model's own completions are the answers."""
    loaded = small_model()[:3]
    first = run_task(exact_match(*loaded, ROWS, decoding=GREEDY, judges=JUDGES["text"]))
    assert first.figures["exact_match/text"].value == 0.0
    own_answers = [row._replace(answer=s["output"]) for row, s in zip(ROWS, first.samples, strict=True)]
    second = run_task(exact_match(*loaded, own_answers, decoding=GREEDY, judges=JUDGES["text"]))
    assert second.figures["exact_match/text"].value == 1.0
    assert [s["score"] for s in second.samples] == [1.0, 1.0]


def test_few_shot_examples_precede_the_question() -> None:
    task = exact_match(
        *small_model()[:3], ROWS[:1], decoding=GREEDY, judges=JUDGES["gsm8k"], examples=ROWS[1:]
    )
    found = run_task(task)
    assert found.samples[0]["prompt"] == "Question: 1 + 2?\nAnswer: 3\n\nQuestion: 1 + 1?\nAnswer:"
    assert set(found.figures) == {"exact_match/strict", "exact_match/flexible"}


def test_encode_gives_a_custom_prompt_format() -> None:
    loaded = small_model()[:3]
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


def test_summarize_gives_the_share_of_right_answers_by_each_judge() -> None:
    samples = [
        {"verdicts": {"strict": False, "flexible": True}},
        {"verdicts": {"strict": True, "flexible": True}},
    ]
    found = summarize(samples, judges=("strict", "flexible"))
    assert (found["exact_match/strict"].value, found["exact_match/flexible"].value) == (0.5, 1.0)
