"""`pure.generation.sample` compared with simple versions in numpy and float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pure.generation import sample

NEVER = -math.inf
quarters = st.integers(-12, 12).map(lambda n: n / 4)  # so that ties are frequent
rows = st.lists(quarters, min_size=1, max_size=12)
temperatures = st.sampled_from([0.0, 0.3, 1.0, 2.5])


def softmax(logits: list[float]) -> np.ndarray:
    weights = np.exp(np.array(logits) - max(logits))
    return weights / weights.sum()


def naive_top_k(logits: list[float], k: int) -> list[float]:
    kth = sorted(logits, reverse=True)[min(k, len(logits)) - 1]
    return [x if x >= kth else NEVER for x in logits]


def probability_above(logits: list[float]) -> list[float]:
    """For each token, the total probability of the tokens with larger logits."""
    probabilities = softmax(logits)
    sums = []
    for x in logits:
        sums.append(sum(q for q, other in zip(probabilities, logits, strict=True) if other > x))
    return sums


def naive_top_p(logits: list[float], p: float) -> list[float]:
    before = probability_above(logits)
    return [x if b < p else NEVER for x, b in zip(logits, before, strict=True)]


def naive_min_p(logits: list[float], p: float) -> list[float]:
    probabilities = softmax(logits)
    least = p * max(probabilities)
    return [x if q >= least else NEVER for x, q in zip(logits, probabilities, strict=True)]


@given(rows, st.integers(1, 15))
def test_top_k_is_the_naive_one(logits: list[float], k: int) -> None:
    expected = torch.tensor(naive_top_k(logits, k))
    assert torch.equal(sample.top_k(torch.tensor(logits), k), expected)
    assert torch.equal(sample.top_k(torch.tensor(logits), torch.tensor(k)), expected)


@given(rows, st.floats(0.05, 0.999))
def test_top_p_is_the_naive_one(logits: list[float], p: float) -> None:
    if min(abs(s - p) for s in probability_above(logits)) > 1e-5:  # else rounding decides
        assert torch.equal(sample.top_p(torch.tensor(logits), p), torch.tensor(naive_top_p(logits, p)))


def test_top_k_takes_integers_of_any_dtype() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [4.0, 6.0, 5.0]])
    found = sample.top_k(logits, torch.tensor([1, 2], dtype=torch.uint8))
    assert found.tolist() == [[NEVER, 3.0, NEVER], [NEVER, 6.0, 5.0]]


def test_top_p_drops_a_token_if_those_before_it_have_exactly_p() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0])
    assert sample.top_p(logits, logits.softmax(-1)[0]).tolist() == [2.0, NEVER, NEVER]


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_top_p_of_bfloat16_logits_adds_in_float32(p: float) -> None:
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(sample.top_p(logits, p).float(), sample.top_p(logits.float(), p))


@given(rows, st.floats(0.0, 1.0))
def test_min_p_is_the_naive_one(logits: list[float], p: float) -> None:
    probabilities = softmax(logits)
    if min(abs(q - p * max(probabilities)) for q in probabilities) > 1e-6:
        assert torch.equal(sample.min_p(torch.tensor(logits), p), torch.tensor(naive_min_p(logits, p)))


@given(rows, st.data())
def test_repetition_penalty_is_the_naive_one(logits: list[float], data: st.DataObject) -> None:
    seen = data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits)))
    rate = data.draw(st.sampled_from([0.5, 1.0, 1.25, 2.0]))
    naive = []
    for logit, was_seen in zip(logits, seen, strict=True):
        penalised = logit / rate if logit > 0 else logit * rate
        naive.append(penalised if was_seen else logit)
    found = sample.repetition_penalty(torch.tensor(logits), torch.tensor(seen), rate)
    torch.testing.assert_close(found, torch.tensor(naive))


@given(rows, temperatures)
def test_temperature_is_the_naive_one(logits: list[float], temperature: float) -> None:
    greedy = [x if x == max(logits) else NEVER for x in logits]
    naive = [x / temperature for x in logits] if temperature else greedy
    torch.testing.assert_close(sample.temperature(torch.tensor(logits), temperature), torch.tensor(naive))


@given(rows, st.integers(0, 2**23 - 1))
def test_sample_inverts_the_distribution_function(logits: list[float], n: int) -> None:
    uniform = n / 2**23
    sums = np.cumsum(softmax(logits))
    if min(abs(sums - uniform)) > 1e-6:
        expected = next(i for i, s in enumerate(sums) if s > uniform)
        assert sample.sample(torch.tensor(logits), torch.tensor(uniform)).item() == expected


@given(rows, st.data())
def test_sample_never_returns_a_masked_token(logits: list[float], data: st.DataObject) -> None:
    """Not even at the ends of the unit interval, wherever the masked tokens are."""
    kept = data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits)).filter(any))
    masked = torch.where(torch.tensor(kept), torch.tensor(logits), NEVER)
    for uniform in (0.0, 2.0**-23, 0.5, 1 - 2.0**-23):
        assert kept[int(sample.sample(masked, torch.tensor(uniform)))]


def test_sample_counts_over_a_grid_equal_the_probabilities() -> None:
    """Over an even grid of uniforms, a token is sampled in proportion to its probability."""
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 2
    points = 100_000
    uniform = (torch.arange(points) + 0.5) / points
    counts = sample.sample(logits.expand(points, -1), uniform).bincount(minlength=50)
    assert (counts - logits.double().softmax(-1) * points).abs().max() <= 1.5


def test_sample_over_a_large_vocabulary_reaches_its_last_token() -> None:
    """Cumulative sums in float32 over 151,936 tokens are exact enough at both ends."""
    logits = torch.zeros(2, 151_936)
    assert sample.sample(logits, torch.tensor([0.0, 1 - 2.0**-23])).tolist() == [0, 151_935]


def test_sample_does_not_depend_on_the_level_or_the_dtype_of_the_logits() -> None:
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    uniform = (torch.arange(200) + 0.5) / 200
    expected = sample.sample(logits.float().expand(200, -1), uniform)
    assert torch.equal(sample.sample(logits.expand(200, -1), uniform), expected)
    moved = sample.sample((logits.double() + 90).float().expand(200, -1), uniform)
    assert (moved - expected).abs().max() <= 1


@given(rows, st.data())
def test_log_probability_is_the_naive_one(logits: list[float], data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    found = sample.log_probability(torch.tensor(logits), torch.tensor(token))
    assert found.item() == pytest.approx(math.log(softmax(logits)[token]), abs=1e-5)


def test_a_row_with_nan_has_a_log_probability_of_nan() -> None:
    logits = torch.tensor([[0.0, math.nan], [0.0, 1.0]])
    ids = sample.sample(logits, torch.tensor([0.5, 0.5]))
    assert sample.log_probability(logits, ids).isnan().tolist() == [True, False]


SEEN = torch.arange(40).reshape(4, 10) % 3 == 0
PARAMETERS: dict[str, tuple[Callable, list]] = {
    "temperature": (sample.temperature, [0.0, 0.5, 1.0, 2.0]),
    "top_k": (sample.top_k, [1, 3, 9, 100]),
    "top_p": (sample.top_p, [0.1, 0.5, 0.9, 1.0]),
    "min_p": (sample.min_p, [0.0, 0.1, 0.5, 1.0]),
    "repetition_penalty": (
        lambda x, r: sample.repetition_penalty(x, SEEN[: len(x)], r),
        [0.5, 1.0, 1.5, 2.0],
    ),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_one_parameter_per_row_equals_one_call_per_row(name: str) -> None:
    function, values = PARAMETERS[name]
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(1)) * 2
    single = torch.stack([function(logits, value)[i] for i, value in enumerate(values)])
    assert torch.equal(function(logits, torch.tensor(values)), single)


def chain_samplers(
    logits: Tensor, seen: Tensor, uniform: Tensor, temperature: Tensor, k: Tensor, p: Tensor, least: Tensor
) -> Tensor:
    free = sample.temperature(sample.repetition_penalty(logits, seen, 1.3), temperature)
    return sample.sample(sample.min_p(sample.top_p(sample.top_k(free, k), p), least), uniform)


def chain_arguments() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    per_row = [torch.tensor(PARAMETERS[name][1]) for name in ("temperature", "top_k", "top_p", "min_p")]
    return (torch.randn(4, 10, generator=generator), SEEN, torch.rand(4, generator=generator), *per_row)


def test_vmap_over_chained_samplers_equals_a_batch() -> None:
    assert torch.equal(
        torch.func.vmap(chain_samplers)(*chain_arguments()), chain_samplers(*chain_arguments())
    )


def test_compiled_chained_samplers_equal_eager() -> None:
    compiled = torch.compile(chain_samplers, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*chain_arguments()), chain_samplers(*chain_arguments()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_samplers_keep_the_dtype(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(3)).to(dtype)
    for function, values in PARAMETERS.values():
        assert function(logits, torch.tensor(values)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_likeliest_token_is_kept_in_every_dtype(dtype: torch.dtype) -> None:
    """0.1 has no exact form in any of them: a threshold that is rounded to another dtype may drop it."""
    logits = torch.tensor([0.1, -3.0, 0.05], dtype=dtype)
    for truncated in (sample.top_k(logits, 1), sample.top_p(logits, 0.5), sample.min_p(logits, 0.5)):
        assert torch.equal(truncated[0], logits[0])


def test_top_p_of_zero_leaves_the_likeliest_token() -> None:
    assert sample.top_p(torch.tensor([1.0, 3.0, 2.0]), 0.0).isfinite().tolist() == [False, True, False]


def test_top_p_of_one_keeps_tokens_after_a_sum_that_is_rounded_to_one() -> None:
    logits = torch.tensor([0.0, -40.0])
    assert torch.equal(sample.top_p(logits, 1.0), logits)
    assert torch.equal(sample.top_p(logits, 0.999), torch.tensor([0.0, NEVER]))


def test_a_tiny_temperature_leaves_the_likeliest_token() -> None:
    for temperature in (1e-7, 1e-45):
        assert sample.temperature(torch.tensor([2.0, 4.0]), temperature).tolist() == [-torch.inf, 4.0]
