"""Answers of a vLLM server for one completion: right, or refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from stages.run.vllm_answers import Asked, Completion, read_answer

ASKED = Asked([7, 8], 5, "row 3, sample 1")
CHOICE = {
    "index": 0,
    "token_ids": [4, 5, 1],
    "prompt_token_ids": [7, 8],
    "logprobs": {"token_logprobs": [-0.5, -1, 0.0]},
    "finish_reason": "stop",
}


def read(choice: Any = None, **changes: Any) -> Completion:
    answer = {"choices": [CHOICE | changes]} if choice is None else choice
    return read_answer(answer, ASKED, place="there", longest=4, vocabulary=9, stop_tokens=(1, 2))


def test_a_right_answer_is_read() -> None:
    assert read() == Completion([4, 5, 1], [-0.5, -1, 0.0])
    cut_off = {"token_ids": [4] * 4, "logprobs": {"token_logprobs": [-1.0] * 4}, "finish_reason": "length"}
    assert read(**cut_off).tokens == [4] * 4
    assert read(prompt_token_ids=None).tokens == [4, 5, 1]
    assert read(logprobs={"token_logprobs": [-9999.0, 1e-7, -1.0]}).logps == [-9999.0, 0.0, -1.0]


BAD = (
    ([], "expected one choice, got '\\[\\]'"),
    (None, "expected one choice, got '.*None"),
    ({"choices": []}, "expected one choice"),
    ({"choices": [CHOICE, CHOICE]}, "expected one choice"),
    ({"choices": ["text"]}, "expected one choice"),
    ({"error": "busy"}, "expected one choice, got .*busy"),
)  # fmt: skip
CHANGES = (
    ({"token_ids": None}, "the answer has no token_ids; vLLM has sent them since 0.10.2"),
    ({"token_ids": "4 5"}, "expected token_ids to be a list of integers, got '4 5'"),
    ({"token_ids": [4.0, 5.0, 1.0]}, "expected token_ids to be a list of integers"),
    ({"token_ids": [True, False, True]}, "expected token_ids to be a list of integers"),
    ({"token_ids": []}, "the answer has no token; was the request aborted"),
    ({"token_ids": [4] * 5}, "asked for at most 4 tokens, got 5"),
    ({"token_ids": [4, 9, 1]}, "token 9 is outside the vocabulary of 9 ids; does the server serve the model"),
    ({"token_ids": [-1, 5, 1]}, "token -1 is outside"),
    ({"logprobs": None}, "the answer has no logprobs"),
    ({"logprobs": {}}, "the answer has no logprobs"),
    ({"logprobs": [0.5]}, "expected one choice"),
    ({"logprobs": {"token_logprobs": [-1.0, None, -1.0]}}, "expected token_logprobs to be a list of numbers"),
    ({"logprobs": {"token_logprobs": "-1"}}, "expected token_logprobs to be a list of numbers"),
    ({"logprobs": {"token_logprobs": [-1.0, -1.0]}}, "got 2 log-probabilities for 3 tokens"),
    ({"logprobs": {"token_logprobs": [-1.0, 3.5, -1.0]}}, "at most 0, got 3.5; start .*processed_logprobs"),
    ({"logprobs": {"token_logprobs": [-1.0, float("nan"), -1.0]}}, "at most 0, got nan"),
    ({"logprobs": {"token_logprobs": [-1.0, -float("inf"), -1.0]}}, "at most 0, got -inf"),
    ({"prompt_token_ids": [7]}, "the server read another prompt, \\[7\\], not \\[7, 8\\]"),
    ({"token_ids": [4, 1, 5]}, "the completion goes on after the stop token 1"),
    ({"token_ids": [4, 5, 6]}, "ended by 6, which is not among the stop tokens \\[1, 2\\]; .*generation-config"),
    ({"token_ids": [4, 5, 6], "finish_reason": "length"}, "cut off after 3 of 4 tokens; .*--max-model-len"),
    ({"finish_reason": "abort"}, "expected the completion to end by 'stop' or 'length', got 'abort'"),
    ({"finish_reason": None}, "expected the completion to end by 'stop' or 'length', got None"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "message"), [*BAD, *(({"choices": [CHOICE | change]}, message) for change, message in CHANGES)]
)
def test_a_wrong_answer_is_refused_by_row_and_sample(answer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^there: row 3, sample 1: .*{message}") as caught:
        read_answer(answer, ASKED, place="there", longest=4, vocabulary=9, stop_tokens=(1, 2))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
