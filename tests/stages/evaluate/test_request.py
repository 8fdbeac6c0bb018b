"""`encode_pairs` and `truncate_left`: requests as token ids. (Against lm-eval: test_harness.py.)"""

from __future__ import annotations

import pytest

from data_pipes import tokenizer as tokenizers
from stages.evaluate.request import Request, encode_pairs, truncate_left


def test_context_and_continuation_are_encoded_as_one_text() -> None:
    text = "the answer is A " * 20
    tokenizer = tokenizers.train([text], vocab_size=280)
    text_ids = tuple(tokenizer.encode("the answer is A"))
    (found,) = encode_pairs(tokenizer, "the answer is", [" A"], prefix=None)
    assert found.context + found.continuation == text_ids
    assert tokenizer.decode(list(found.continuation)) == " A"
    assert encode_pairs(tokenizer, "the answer is ", ["A"], prefix=None) == [found]
    assert encode_pairs(tokenizer, "", ["the"], prefix=7) == [Request((7,), tuple(tokenizer.encode("the")))]
    with pytest.raises(ValueError, match="neither a bos nor an eos"):
        encode_pairs(tokenizer, "", ["the"], prefix=None)
    with pytest.raises(ValueError, match="is empty; give each"):
        encode_pairs(tokenizer, "the", [""], prefix=None)


def test_a_continuation_that_begins_with_the_prefix_is_scored_after_it() -> None:
    tokenizer = tokenizers.train(["the"], vocab_size=280)
    end = tokenizers.special_tokens(tokenizer)["<|endoftext|>"]
    (found,) = encode_pairs(tokenizer, "", ["<|endoftext|>the"], prefix=end, special="all")
    assert found == Request((end,), tuple(tokenizer.encode("the")))


def test_a_merge_across_the_boundary_is_divided_as_in_lm_eval() -> None:
    """The context is encoded alone; the ids of the whole text after that many ids are the continuation."""
    tokenizer = tokenizers.train(["return " * 40], vocab_size=280)
    (found,) = encode_pairs(tokenizer, "retur", ["n x + y * z"], prefix=None)
    text_ids, context_ids = tokenizer.encode("return x + y * z"), tokenizer.encode("retur")
    assert found == Request(tuple(context_ids), tuple(text_ids[len(context_ids) :]))


def test_truncate_left_drops_the_first_tokens_of_a_long_context() -> None:
    assert truncate_left(Request((1, 2, 3), (4, 5)), 3, 0) == Request((2, 3), (4, 5))
    assert truncate_left(Request((1, 2), (4, 5)), 3, 0) == Request((1, 2), (4, 5))
