"""Rollouts: laid out so that training sees what the sampler saw, and drawn from (params, prompts, key)
alone."""

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


def test_prompts_stand_directly_before_their_completions() -> None:
    found = sample_rollouts()
    assert found.tokens.shape == (12, 10)
    for row, index in enumerate(found.row.tolist()):
        prompt = PROMPTS["row"].tolist().index(index)
        length = int(PROMPTS["lengths"][prompt])
        assert found.tokens[row, 4 - length : 4].tolist() == PROMPTS["prompts"][prompt, :length].tolist()
        assert int(found.starts[row]) == 4 - length
    assert found.row.tolist() == [7] * 4 + [2] * 4 + [9] * 4


def test_masks_end_with_the_stop_token_and_truncation_is_reported() -> None:
    found = sample_rollouts(max_new_tokens=8)
    assert found.ended.any()
    for tokens, mask, ended in zip(found.tokens[:, 4:], found.mask, found.ended, strict=True):
        written = tokens[mask].tolist()
        assert (written[-1] == 3) == bool(ended)
        assert 3 not in written[:-1]
        assert bool(ended) or len(written) == 8
        assert (tokens[~mask] == 0).all()


def test_training_sees_the_log_probabilities_of_the_sampler() -> None:
    """One forward function for both: the gap is rounding."""
    found = sample_rollouts()
    head = partial(linear_log_probabilities, logits=MODEL.logits, temperature=0.7)
    again = completion_log_probabilities(PARAMS, found, model=MODEL, head=head)
    torch.testing.assert_close(again.logps, found.logps, rtol=1e-5, atol=1e-5)
    assert (found.logps[found.mask] < 0).all()


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


def test_a_prompt_alone_and_among_31_others() -> None:
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


def test_positions_and_segments_numbers_from_the_first_token_of_the_prompt() -> None:
    found = positions_and_segments(sample_rollouts())
    assert found["positions"][4].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]
    assert found["segment_ids"][4].tolist() == [0, 0, 0] + [1] * 7


def test_labels_are_the_completions() -> None:
    found = sample_rollouts()
    assert torch.equal(completion_labels(found) >= 0, found.mask)
    assert torch.equal(completion_labels(found)[found.mask], found.tokens[:, 4:][found.mask])


@pytest.mark.parametrize("stops", [(), (3,), (3, 9)])
def test_completions_drawn_elsewhere_can_be_arranged(stops: tuple[int, ...]) -> None:
    rows, written = torch.tensor([[5, 3], [9, 0], [1, 2]]), torch.tensor([2, 1, 0])
    found = arrange(
        torch.tensor([[1, 0], [2, 2], [3, 0]]),
        torch.tensor([1, 2, 1]),
        rows,
        written,
        torch.full((3, 2), -1.0),
        torch.arange(3),
        stops,
    )
    assert found.tokens.tolist() == [[0, 1, 5, 3], [2, 2, 9, 0], [0, 3, 0, 0]]
    assert found.ended.tolist() == [3 in stops, 9 in stops, False]
    assert found.logps.tolist() == [[-1, -1], [-1, 0], [0, 0]]


def test_the_vocabulary_of_the_small_model() -> None:
    assert int(sample_rollouts().tokens.max()) < VOCABULARY
