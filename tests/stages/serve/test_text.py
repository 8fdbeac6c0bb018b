"""`stages.serve.text`: streamed text is the whole text up to the first stop text, however tokens cut it."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from data_pipes import tokenizer as tokenizers
from data_pipes.chat.stop import truncate_at_stop
from stages.serve.row import Piece, Token
from stages.serve.text import TextState, add_token, end_text

TOKENIZER = tokenizers.train(["abc abab caba naïve 😀 日本"] * 3, 300)
STREAM = tokenizers.stream(TOKENIZER)


def send_all(ids: list[int], stop: list[str]) -> list[Piece]:
    """All pieces of a text whose tokens are `ids`."""
    state, pieces = TextState(STREAM.init), []
    for id in ids:
        state, piece = add_token(state, Token(id), stream=STREAM, stop=stop)
        pieces.append(piece)
        if piece.finish:
            return pieces
    state, piece = end_text(state, stream=STREAM, stop=stop)
    return [*pieces, piece]


@given(
    st.lists(st.sampled_from(range(len(TOKENIZER.spec.vocab))), max_size=20),
    st.lists(st.text("abc ", min_size=1, max_size=4), max_size=3),
)
def test_pieces_join_to_the_text_before_the_first_stop_text(ids: list[int], stop: list[str]) -> None:
    pieces = send_all(ids, stop)
    sent = "".join(piece.text for piece in pieces)
    read = len(pieces) if pieces[-1].finish else len(ids)
    text = TOKENIZER.decode(ids[:read])
    assert truncate_at_stop(text, stop).startswith(sent)
    assert (pieces[-1].finish == "stop") == any(s in text for s in stop)
    if not pieces[-1].finish:
        assert sent == text
        assert [token.id for piece in pieces for token in piece.tokens] == ids


def test_a_character_is_sent_when_all_its_bytes_are_there() -> None:
    ids = tokenizers.train(["a"], 256, special_tokens=[]).encode("é😀")
    stream = tokenizers.stream(tokenizers.train(["a"], 256, special_tokens=[]))
    state, texts = TextState(stream.init), []
    for id in ids:
        state, piece = add_token(state, Token(id), stream=stream)
        texts.append(piece.text)
    assert texts == ["", "é", "", "", "", "😀"]
    state, _ = add_token(TextState(stream.init), Token(ids[0]), stream=stream)
    assert end_text(state, stream=stream)[1].text == "\ufffd"


def test_text_that_may_begin_a_stop_text_is_held_back_and_its_token_with_it() -> None:
    stream = tokenizers.Stream("", lambda state, id: (state, chr(id)), lambda state: "")
    add = partial(add_token, stream=stream, stop=["END", "NO"])
    state, first = add(TextState(""), Token(ord("E")))
    state, second = add(state, Token(ord("N")))
    assert (first, second) == (Piece(), Piece())
    state, third = add(state, Token(ord("x")))
    assert third.text == "ENx"
    assert [token.start for token in third.tokens] == [0, 1, 2]
    state, fourth = add(state, Token(ord("N")))
    state, fifth = add(state, Token(ord("O")))
    assert (fourth.text, fifth.text, fifth.finish, fifth.tokens) == ("", "", "stop", ())
