"""Answers (`answer`, `token_text`): log-probabilities in both forms, with the bytes of each token."""

from __future__ import annotations

import pytest

from data_pipes import tokenizer as tokenizers
from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.spec import AddedToken, TokenizerSpec
from stages.serve.answer import Heading, make_answer, make_chunk
from stages.serve.request import Wanted
from stages.serve.row import Piece, Token
from stages.serve.token_text import token_bytes

TOKENIZER = tokenizers.train(["a"], 257, special_tokens=["<|end|>"])
A, FIRST, SECOND = TOKENIZER.encode("aé")
HEADING = Heading("id-1", 5, "small", "fp_1", is_chat=True)
WANTED = Wanted((), 3, 9, False, False, logprobs=True)
PIECE = Piece(
    "aé",
    (Token(A, -0.5, ((A, -0.5), (FIRST, -1.0)), 0), Token(FIRST, -1.0, (), 1), Token(SECOND, -2.0, (), 1)),
    sampled=4,
    finish="stop",
)


def test_log_probabilities_of_a_chat_have_the_bytes_of_every_token() -> None:
    answer = make_answer(HEADING, WANTED, [PIECE], token_bytes(TOKENIZER))
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "aé", "refusal": None}
    content = choice["logprobs"]["content"]
    assert [token["bytes"] for token in content] == [[97], [0xC3], [0xA9]]
    assert [token["token"] for token in content] == ["a", "\ufffd", "\ufffd"]
    assert content[0]["top_logprobs"][1] == {"token": "\ufffd", "logprob": -1.0, "bytes": [0xC3]}
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert (answer["seed"], answer["system_fingerprint"]) == (9, "fp_1")


def test_log_probabilities_of_a_completion_are_lists_with_offsets() -> None:
    answer = make_answer(HEADING._replace(is_chat=False), WANTED, [PIECE], token_bytes(TOKENIZER))
    assert answer["choices"][0] == {
        "index": 0,
        "text": "aé",
        "finish_reason": "stop",
        "logprobs": {
            "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9"],
            "token_logprobs": [-0.5, -1.0, -2.0],
            "top_logprobs": [{"a": -0.5, "bytes:\\xc3": -1.0}, {"bytes:\\xc3": -1.0}, {"bytes:\\xa9": -2.0}],
            "text_offset": [0, 1, 1],
        },
    }


def test_of_tokens_with_one_text_none_is_lost() -> None:
    piece = Piece("A", (Token(7, -5.0, ((5, -0.1), (6, -1.0)), 0),), 1, "stop")
    answer = make_answer(HEADING._replace(is_chat=False), WANTED, [piece], lambda id: b"A")
    top = answer["choices"][0]["logprobs"]["top_logprobs"]
    assert top == [{"A": -0.1, "token_id:6": -1.0, "token_id:7": -5.0}]


def test_the_first_chunk_of_a_chat_names_the_role_and_the_last_the_reason() -> None:
    wanted = WANTED._replace(logprobs=False, with_usage=True)
    first = make_chunk(HEADING, wanted, 1, Piece("a"), token_bytes(TOKENIZER), first=True)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "a"}
    assert first["usage"] is None
    last = make_chunk(HEADING, wanted, 1, Piece(finish="length"), token_bytes(TOKENIZER))
    assert last["choices"] == [{"index": 1, "logprobs": None, "finish_reason": "length", "delta": {}}]


@pytest.mark.parametrize(
    ("decoder", "expected"),
    [
        (None, [b"\xe2\x96\x81a", b"b", b"\xe2", b"<end>", b""]),
        ("metaspace", [b" a", b"b", b"\xe2", b"<end>", b""]),
    ],
)
def test_bytes_of_tokens_that_are_not_byte_level(decoder: str | None, expected: list[bytes]) -> None:
    from data_pipes.tokenizer.step import step

    steps = (
        step("Replace", pattern=("String", "▁"), content=" "),
        step("ByteFallback"),
        step("Fuse"),
        step("Strip", content=" ", start=1, stop=0),
    )
    if decoder is None:
        steps = (step("ByteFallback"), step("Fuse"))
    spec = TokenizerSpec(
        kind="character",
        vocab=("▁a", "b", "<0xE2>"),
        merges=(),
        pattern="gpt2",
        added_tokens=(AddedToken("<end>", 3),),
        decoder=steps,
    )
    bytes_of = token_bytes(from_spec(spec))
    assert [bytes_of(id) for id in range(5)] == expected


def test_bytes_of_added_tokens_of_a_byte_level_tokenizer() -> None:
    end = tokenizers.special_tokens(TOKENIZER)["<|end|>"]
    assert token_bytes(TOKENIZER)(end) == b"<|end|>"
    assert token_bytes(TOKENIZER)(9999) == b""
