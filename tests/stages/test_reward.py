"""The reward model: the token that is scored, the effect of an end token, and learning a preference."""

from __future__ import annotations

import functools

import torch

from pure import optim, random
from pure.nn.scalar import scalar_model
from pure.nn.transformer import transformer
from stages.reward import answer_scores, reward
from tests.laws.test_stages import small


def test_the_score_is_that_of_the_last_token_even_if_it_is_only_in_the_labels() -> None:
    model = scalar_model(transformer(small()))
    params = model.init(random.key(0))
    whole = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]])
    labels = torch.tensor([[-100, 3, 4, 5], [-100, 8, 9, -100]])
    found = answer_scores(params, whole[:, :-1], labels, score=model.score)
    expected = torch.stack([model.score(params, whole[:1])[0, 4], model.score(params, whole[1:, :4])[0, 3]])
    torch.testing.assert_close(found, expected)


def test_a_finished_answer_has_another_score_than_a_truncated_one() -> None:
    model = scalar_model(transformer(small()))
    params = model.init(random.key(0))
    tokens = torch.tensor([[1, 2, 3], [1, 2, 3]])
    labels = torch.tensor([[-100, 3, 9], [-100, 3, -100]])
    ended, truncated = answer_scores(params, tokens, labels, score=model.score)
    assert ended != truncated


def test_the_learned_preference_holds_for_held_out_pairs() -> None:
    """The better answer has the higher second token."""
    model = transformer(small())
    a_stage = reward(model, optim.adam(1e-2))

    def pairs(number: int) -> dict[str, torch.Tensor]:
        ids = random.randint(random.key(number), (16, 3), 1, 17).long()
        low, high = ids[:, 1:].aminmax(dim=1)
        sides = {"chosen": high, "rejected": low}
        rows = {name: torch.stack([ids[:, 0], x, torch.zeros_like(x)], 1) for name, x in sides.items()}
        batch = {}
        for name, x in rows.items():
            batch[f"{name}_tokens"] = x
            batch[f"{name}_labels"] = torch.stack([x[:, 1], *[x[:, 2] - 100] * 2], 1)
        return batch

    state = functools.reduce(a_stage.step, [pairs(i) for i in range(60)], a_stage.init(random.key(0)))
    after = a_stage.step(state, pairs(1000))
    assert after.metrics["rewards/accuracies"] > 0.85
    assert after.metrics["rewards/margins"] > 0.5
