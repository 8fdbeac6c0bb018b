"""`log_likelihoods`, with and without shared prefixes, and `window_log_likelihoods` against a plain loop."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pure import random, tree
from pure.config import ModelConfig
from pure.interop.module import from_module
from pure.nn.transformer import transformer
from stages.evaluate.likelihood import (
    POSITIONS,
    Likelihood,
    Window,
    log_likelihoods,
    window_log_likelihoods,
)
from stages.evaluate.request import Request

CONFIG = ModelConfig(
    vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, initializer_range=0.3,
)  # fmt: skip
MODEL = transformer(CONFIG)
PARAMS = MODEL.init(random.key(0))

ids = st.lists(st.integers(0, 39), min_size=1, max_size=6).map(tuple)


def likelihood_by_loop(request: Request) -> Likelihood:
    """The log-likelihood token by token, each from its own forward pass."""
    total, greedy = 0.0, True
    for position, token in enumerate(request.continuation):
        row = torch.tensor([request.context + request.continuation[:position]])
        logps = MODEL.forward(PARAMS, row)[0, -1].double().log_softmax(0)
        total += float(logps[token])
        greedy = greedy and int(logps.argmax()) == token
    return Likelihood(total, greedy)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), ids, ids), min_size=1, max_size=8), st.sampled_from([1, 40, 2048]))
def test_log_likelihoods_equal_a_loop_with_and_without_sharing(parts: list, tokens: int) -> None:
    """`parts` are (whether the context begins with the common prefix, rest of the context, continuation)."""
    prefix = tuple(range(20))
    requests = [
        Request(prefix + context if prefixed else context, continuation)
        for prefixed, context, continuation in parts
    ]
    expected = [likelihood_by_loop(request) for request in requests]
    for share in (True, False):
        found = log_likelihoods(MODEL, PARAMS, requests, tokens=tokens, share=share)
        assert [x.logp for x in found] == pytest.approx([x.logp for x in expected], abs=2e-4)
        assert [x.greedy for x in found] == [x.greedy for x in expected]


def test_a_shared_context_is_read_once() -> None:
    """Four questions of 30 tokens after a common prefix of 30, each with four continuations: the model reads
    30 + 4 x 30 tokens, not 16 x 60."""
    tokens_read = []

    def decode(params: object, tokens: torch.Tensor, *rest: object, **options: object) -> object:
        tokens_read.append(tokens.numel())
        return MODEL.decode(params, tokens, *rest, **options)

    requests = [
        Request((*range(30), 30 + i, *range(29)), (ending,)) for i in range(4) for ending in (1, 2, 3, 4)
    ]
    log_likelihoods(MODEL._replace(decode=decode), PARAMS, requests)
    assert tokens_read == [30, 4 * 30]


def test_greedy_is_true_for_the_likeliest_continuation_only() -> None:
    row = torch.tensor([[1, 2, 3]])
    best = int(MODEL.forward(PARAMS, row)[0, -1].argmax())
    other = (best + 1) % 40
    found = log_likelihoods(MODEL, PARAMS, [Request((1, 2, 3), (best,)), Request((1, 2, 3), (other,))])
    assert [x.greedy for x in found] == [True, False]


@pytest.mark.parametrize("share", [True, False])
def test_a_long_request_is_cut_on_its_left_and_dropped_counts_the_tokens(share: bool) -> None:
    long = Request(tuple(i % 40 for i in range(80)), (5, 6))
    short = Request(long.context[-63:], long.continuation)
    found = log_likelihoods(MODEL, PARAMS, [long, short], share=share)
    assert found[0].logp == pytest.approx(found[1].logp, abs=1e-5)
    assert [x.dropped for x in found] == [17, 0]


def test_a_model_without_a_cache_is_scored() -> None:
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


def test_window_log_likelihoods_in_bfloat16_are_near_those_in_float32() -> None:
    window = Window(tuple(range(30)), 29)
    exact = window_log_likelihoods(MODEL, PARAMS, [window])[0].logp
    assert window_log_likelihoods(MODEL, tree.cast(PARAMS, torch.bfloat16), [window])[
        0
    ].logp == pytest.approx(exact, rel=2e-2)


def test_windows_of_several_lengths_equal_a_loop() -> None:
    """Padding on the right changes nothing, and only the last tokens of each window are scored."""
    rows = [(tuple(range(7)), 3), ((5, 1), 1), (tuple(range(20, 35)), 14), ((8, 8, 8, 8), 2)]
    requests = [Request(ids[:-scored], ids[-scored:]) for ids, scored in rows]
    best = int(MODEL.forward(PARAMS, torch.tensor([[3, 4]]))[0, -1].argmax())
    requests.append(Request((3, 4), (best,)))
    windows = [Window((*context, *continuation), len(continuation)) for context, continuation in requests]
    found = window_log_likelihoods(MODEL, PARAMS, windows)
    expected = [likelihood_by_loop(request) for request in requests]
    assert [x.logp for x in found] == pytest.approx([x.logp for x in expected], rel=1e-5)
    assert [x.greedy for x in found] == [x.greedy for x in expected]
    assert found[-1].greedy


BIGRAM = MODEL._replace(
    hidden=lambda params, tokens: params["table"][tokens], logits=lambda params, hidden: hidden
)
"""The logits of the next token are a row of a table."""


def test_windows_with_more_positions_than_are_scored_at_a_time() -> None:
    table = random.normal(random.key(3), (5, 5))
    rows = random.randint(random.key(4), (2, POSITIONS), 0, 5).tolist()
    windows = [Window(tuple(rows[0]), 700), Window(tuple(rows[1]), 1000)]
    logps = table.double().log_softmax(-1)
    expected = [
        sum(float(logps[old, new]) for old, new in list(itertools.pairwise(window.tokens))[-window.scored :])
        for window in windows
    ]
    found = window_log_likelihoods(BIGRAM, {"table": table}, windows, tokens=2 * POSITIONS)
    assert [x.logp for x in found] == pytest.approx(expected, rel=1e-6)


def test_the_sum_of_a_window_is_in_float64() -> None:
    """Token 2 after token 1 has the log-probability -2^24, beside which float32 loses the ln 4 of the others."""
    table = torch.zeros(4, 4)
    table[1] = torch.tensor([0.0, -1e9, -(2.0**24), -1e9])
    [score] = window_log_likelihoods(BIGRAM, {"table": table}, [Window((0, 0, 1, 2, 0, 0), 5)])
    assert score.logp + 2.0**24 == pytest.approx(-4 * math.log(4), abs=1e-5)
    assert not score.greedy


def test_requests_that_cannot_be_scored_are_refused() -> None:
    with pytest.raises(ValueError, match="request 1 has an empty part"):
        log_likelihoods(MODEL, PARAMS, [Request((1,), (2,)), Request((), (2,))])
    with pytest.raises(ValueError, match="has 65 tokens, but the model reads at most 64"):
        log_likelihoods(MODEL, PARAMS, [Request((1,), (2,) * 65)])
    with pytest.raises(ValueError, match="window 0 scores 2 of 2"):
        window_log_likelihoods(MODEL, PARAMS, [Window((1, 2), 2)])


@pytest.mark.parametrize("share", [True, False])
def test_nan_weights_are_a_floating_point_error(share: bool) -> None:
    broken = tree.map(lambda x: x * float("nan"), PARAMS)
    with pytest.raises(FloatingPointError, match="log-likelihood of request 0 is NaN"):
        log_likelihoods(MODEL, broken, [Request((1,), (2,))], share=share)
