"""Rollouts: training sees what the sampler saw; completions depend on params, prompts and key only."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pure import random
from pure.config import ModelConfig
from pure.generation.sampling import Sampling
from pure.loss.log_probability import linear_log_probabilities
from pure.nn.transformer import transformer
from stages.rollout import (
    Rollouts,
    arrange,
    completion_labels,
    completion_log_probabilities,
    positions_and_segments,
    rollout,
)
from tests.laws.test_stages import VOCABULARY, small

MODEL = transformer(small(max_position_embeddings=32))
PARAMS = MODEL.init(random.key(0))
PROMPTS = {
    "prompts": torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 7, 8]]),
    "lengths": torch.tensor([3, 1, 4]),
    "row": torch.tensor([7, 2, 9]),
}
SAMPLING = Sampling(max_new_tokens=6, stop_tokens=(3,), temperature=0.7)


def sample_rollouts(batch: dict = PROMPTS, seed: int = 5, **changes: object) -> Rollouts:
    sampling = SAMPLING._replace(**changes)
    return rollout(MODEL, PARAMS, batch, random.key(seed), samples=4, sampling=sampling)


def test_each_prompt_ends_directly_before_its_completion() -> None:
    rollouts = sample_rollouts()
    assert rollouts.tokens.shape == (12, 10)
    for row, index in enumerate(rollouts.row.tolist()):
        prompt = PROMPTS["row"].tolist().index(index)
        length = int(PROMPTS["lengths"][prompt])
        assert rollouts.tokens[row, 4 - length : 4].tolist() == PROMPTS["prompts"][prompt, :length].tolist()
        assert int(rollouts.starts[row]) == 4 - length
    assert rollouts.row.tolist() == [7] * 4 + [2] * 4 + [9] * 4


def test_masks_end_with_the_stop_token_and_truncation_is_reported() -> None:
    rollouts = sample_rollouts(max_new_tokens=8)
    assert rollouts.ended.any()
    for tokens, mask, ended in zip(rollouts.tokens[:, 4:], rollouts.mask, rollouts.ended, strict=True):
        completion = tokens[mask].tolist()
        assert (completion[-1] == 3) == bool(ended)
        assert 3 not in completion[:-1]
        assert bool(ended) or len(completion) == 8
        assert (tokens[~mask] == 0).all()


def test_training_sees_the_log_probabilities_of_the_sampler() -> None:
    """One forward function for both: the gap is rounding."""
    rollouts = sample_rollouts()
    head = partial(linear_log_probabilities, logits=MODEL.logits, temperature=0.7)
    again = completion_log_probabilities(PARAMS, rollouts, model=MODEL, head=head)
    torch.testing.assert_close(again.logps, rollouts.logps, rtol=1e-5, atol=1e-5)
    assert (rollouts.logps[rollouts.mask] < 0).all()


def test_the_same_key_gives_the_same_completions_and_another_does_not() -> None:
    for a, b in zip(sample_rollouts(), sample_rollouts(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(sample_rollouts().tokens, sample_rollouts(seed=6).tokens)


def test_samples_of_a_prompt_differ_and_do_not_depend_on_the_rest_of_the_batch() -> None:
    together = sample_rollouts()
    assert len({tuple(row) for row in together.tokens[4:8].tolist()}) > 1
    for n in range(3):
        alone = sample_rollouts({name: x[n : n + 1] for name, x in PROMPTS.items()})
        rows = slice(4 * n, 4 * n + 4)
        torch.testing.assert_close(alone.logps, together.logps[rows], rtol=1e-4, atol=1e-4)
        assert torch.equal(alone.tokens, together.tokens[rows])


def test_a_prompt_gives_the_same_completion_alone_and_among_31_others() -> None:
    """Log-probabilities within 1e-4, and the same tokens, in float32."""
    config = ModelConfig(
        vocab_size=50, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2
    )
    model = transformer(config)
    params = model.init(random.key(3))
    many = {
        "prompts": random.randint(random.key(4), (32, 7), 0, 50).long(),
        "lengths": 1 + torch.arange(32) % 7,
        "row": torch.arange(32),
    }
    options = {"samples": 1, "sampling": Sampling(max_new_tokens=12)}
    whole = rollout(model, params, many, random.key(1), **options)
    alone = rollout(model, params, {name: x[3:4] for name, x in many.items()}, random.key(1), **options)
    assert torch.equal(alone.tokens, whole.tokens[3:4])
    torch.testing.assert_close(alone.logps, whole.logps[3:4], rtol=0, atol=1e-4)


def test_positions_count_from_the_first_token_of_the_prompt() -> None:
    inputs = positions_and_segments(sample_rollouts())
    assert inputs["positions"][4].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]
    assert inputs["segment_ids"][4].tolist() == [0, 0, 0] + [1] * 7


def test_labels_are_the_tokens_of_the_completions() -> None:
    rollouts = sample_rollouts()
    assert torch.equal(completion_labels(rollouts) >= 0, rollouts.mask)
    assert torch.equal(completion_labels(rollouts)[rollouts.mask], rollouts.tokens[:, 4:][rollouts.mask])


@pytest.mark.parametrize("stop_tokens", [(), (3,), (3, 9)])
def test_completions_sampled_elsewhere_can_be_arranged(stop_tokens: tuple[int, ...]) -> None:
    completions, completion_lengths = torch.tensor([[5, 3], [9, 0], [1, 2]]), torch.tensor([2, 1, 0])
    rollouts = arrange(
        prompts=torch.tensor([[1, 0], [2, 2], [3, 0]]),
        lengths=torch.tensor([1, 2, 1]),
        completions=completions,
        completion_lengths=completion_lengths,
        logps=torch.full((3, 2), -1.0),
        row=torch.arange(3),
        stop_tokens=stop_tokens,
    )
    assert rollouts.tokens.tolist() == [[0, 1, 5, 3], [2, 2, 9, 0], [0, 3, 0, 0]]
    assert rollouts.ended.tolist() == [3 in stop_tokens, 9 in stop_tokens, False]
    assert rollouts.logps.tolist() == [[-1, -1], [-1, 0], [0, 0]]


def test_sampled_ids_are_below_the_vocabulary_size() -> None:
    assert int(sample_rollouts().tokens.max()) < VOCABULARY
