"""Stop strings: `stop_at` ends generation, `truncate_at_stop` cuts the text."""

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
def test_generation_stops_at_the_token_that_completes_a_stop_string(parts: list[str]) -> None:
    """Called after every token, it is first True where the decoded text first contains a stop string."""
    ids = TOKENIZER.encode("".join(parts))
    stop = stop_at(TOKENIZER, STOPS)
    row = torch.tensor([ids + [0] * (40 - len(ids))])
    flags = [bool(stop(row, torch.tensor([n]))[0]) for n in range(1, len(ids) + 1)]
    expected = [any(text in TOKENIZER.decode(ids[:n]) for text in STOPS) for n in range(1, len(ids) + 1)]
    first = expected.index(True) if True in expected else len(ids)
    assert flags[: first + 1] == expected[: first + 1]


def test_text_is_cut_at_the_earliest_stop_string() -> None:
    assert truncate_at_stop("a\ndef b\nclass c", STOPS) == "a"
    assert truncate_at_stop("a\nclass b\ndef c", STOPS) == "a"
    assert truncate_at_stop("nothing here", STOPS) == "nothing here"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="a stop string is empty"):
        stop_at(TOKENIZER, ["a", ""])
