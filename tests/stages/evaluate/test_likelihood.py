"""Log-likelihoods: shared and by window, both against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pure import random, tree
from pure.config import ModelConfig
from pure.interop.module import from_module
from pure.nn.transformer import transformer
from stages.evaluate.likelihood import Likelihood, Window, log_likelihoods, window_log_likelihoods
from stages.evaluate.request import Request

CONFIG = ModelConfig(
    vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, initializer_range=0.3,
)  # fmt: skip
MODEL = transformer(CONFIG)
PARAMS = MODEL.init(random.key(0))

ids = st.lists(st.integers(0, 39), min_size=1, max_size=6).map(tuple)


def by_hand(request: Request) -> Likelihood:
    """One token after the other, each from a pass of its own."""
    total, greedy = 0.0, True
    for place, word in enumerate(request.continuation):
        row = torch.tensor([request.context + request.continuation[:place]])
        logps = MODEL.forward(PARAMS, row)[0, -1].double().log_softmax(0)
        total += float(logps[word])
        greedy = greedy and int(logps.argmax()) == word
    return Likelihood(total, greedy)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), ids, ids), min_size=1, max_size=8), st.sampled_from([1, 40, 2048]))
def test_shared_or_whole_the_numbers_are_those_of_a_loop(parts: list, tokens: int) -> None:
    """Contexts with and without a long beginning in common, endings of one token and of several."""
    beginning = tuple(range(20))
    requests = [Request(beginning + context if long else context, ending) for long, context, ending in parts]
    expected = [by_hand(request) for request in requests]
    for share in (True, False):
        found = log_likelihoods(MODEL, PARAMS, requests, tokens=tokens, share=share)
        assert [x.logp for x in found] == pytest.approx([x.logp for x in expected], abs=2e-4)
        assert [x.greedy for x in found] == [x.greedy for x in expected]


def test_a_shared_context_is_read_once() -> None:
    """Four questions of 30 tokens after 30 that they share, four continuations each: 30 + 4 x 30 tokens, not 16 x
    60."""
    read = []

    def decode(params: object, tokens: torch.Tensor, *rest: object, **options: object) -> object:
        read.append(tokens.numel())
        return MODEL.decode(params, tokens, *rest, **options)

    requests = [
        Request((*range(30), 30 + i, *range(29)), (ending,)) for i in range(4) for ending in (1, 2, 3, 4)
    ]
    log_likelihoods(MODEL._replace(decode=decode), PARAMS, requests)
    assert read == [30, 4 * 30]


def test_a_greedy_ending_is_called_so() -> None:
    row = torch.tensor([[1, 2, 3]])
    best = int(MODEL.forward(PARAMS, row)[0, -1].argmax())
    other = (best + 1) % 40
    found = log_likelihoods(MODEL, PARAMS, [Request((1, 2, 3), (best,)), Request((1, 2, 3), (other,))])
    assert [x.greedy for x in found] == [True, False]


@pytest.mark.parametrize("share", [True, False])
def test_too_long_a_request_loses_its_left_and_says_so(share: bool) -> None:
    long = Request(tuple(i % 40 for i in range(80)), (5, 6))
    short = Request(long.context[-63:], long.continuation)
    found = log_likelihoods(MODEL, PARAMS, [long, short], share=share)
    assert found[0].logp == pytest.approx(found[1].logp, abs=1e-5)
    assert [x.dropped for x in found] == [17, 0]


def test_a_model_without_a_cache_is_read_whole() -> None:
    class Bigram(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(4, 4)
            torch.nn.init.zeros_(self.table.weight)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.table(tokens)

    model = from_module(Bigram(), vocab_size=4, max_length=8)
    found = log_likelihoods(model, model.init(None), [Request((1,), (2, 3))], share=False)
    assert found[0].logp == pytest.approx(2 * math.log(1 / 4))
    assert log_likelihoods(model, model.init(None), [Request((1,), (2, 3))])[0].logp == pytest.approx(
        found[0].logp
    )


def test_windows_in_bfloat16_stay_near() -> None:
    window = Window(tuple(range(30)), 29)
    exact = window_log_likelihoods(MODEL, PARAMS, [window])[0].logp
    assert window_log_likelihoods(MODEL, tree.cast(PARAMS, torch.bfloat16), [window])[
        0
    ].logp == pytest.approx(exact, rel=2e-2)


def test_requests_that_cannot_be_scored_are_refused() -> None:
    with pytest.raises(ValueError, match="request 1 has an empty part"):
        log_likelihoods(MODEL, PARAMS, [Request((1,), (2,)), Request((), (2,))])
    with pytest.raises(ValueError, match="has 65 tokens, but the model reads at most 64"):
        log_likelihoods(MODEL, PARAMS, [Request((1,), (2,) * 65)])
    with pytest.raises(ValueError, match="window 0 scores 2 of 2"):
        window_log_likelihoods(MODEL, PARAMS, [Window((1, 2), 2)])


@pytest.mark.parametrize("share", [True, False])
def test_a_model_of_nan_is_no_model(share: bool) -> None:
    broken = tree.map(lambda x: x * float("nan"), PARAMS)
    with pytest.raises(FloatingPointError, match="log-likelihood of request 0 is NaN"):
        log_likelihoods(MODEL, broken, [Request((1,), (2,))], share=share)
