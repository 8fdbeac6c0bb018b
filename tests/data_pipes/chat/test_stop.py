"""Stop strings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_pipes import tokenizer as tokenizers
from data_pipes.chat.stop import stop_at, truncate_at_stop

TOKENIZER = tokenizers.train(["def class print if #\n\n the the of of"], vocab_size=280)
STOPS = ["\nclass", "\ndef", "ß!"]


@given(st.lists(st.sampled_from(["\n", "class", "def", "ß", "!", " the", "of", "\u4f60"]), max_size=8))
def test_a_row_ends_with_the_token_that_completes_a_string(parts: list[str]) -> None:
    """Asked after every token, the first True is where the text first holds a stop string."""
    ids = TOKENIZER.encode("".join(parts))
    stop = stop_at(TOKENIZER, STOPS)
    row = torch.tensor([ids + [0] * (40 - len(ids))])
    flags = [bool(stop(row, torch.tensor([n]))[0]) for n in range(1, len(ids) + 1)]
    expected = [any(text in TOKENIZER.decode(ids[:n]) for text in STOPS) for n in range(1, len(ids) + 1)]
    first = expected.index(True) if True in expected else len(ids)
    assert flags[: first + 1] == expected[: first + 1]


def test_the_earliest_string_cuts() -> None:
    assert truncate_at_stop("a\ndef b\nclass c", STOPS) == "a"
    assert truncate_at_stop("a\nclass b\ndef c", STOPS) == "a"
    assert truncate_at_stop("nothing here", STOPS) == "nothing here"


def test_an_empty_string_is_refused() -> None:
    with pytest.raises(ValueError, match="a stop string is empty"):
        stop_at(TOKENIZER, ["a", ""])
