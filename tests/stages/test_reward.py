"""The reward model's scores: where they are read, that endings count, and that it learns what was
preferred."""

from __future__ import annotations

import functools

import torch

from pure import optim, random
from pure.nn.scalar import scalar_model
from pure.nn.transformer import transformer
from stages.reward import answer_scores, reward
from tests.laws.test_stages import small


def test_a_score_is_read_at_the_last_token_even_where_that_is_only_a_label() -> None:
    model = scalar_model(transformer(small()))
    params = model.init(random.key(0))
    whole = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]])
    labels = torch.tensor([[-100, 3, 4, 5], [-100, 8, 9, -100]])
    found = answer_scores(params, whole[:, :-1], labels, score=model.score)
    expected = torch.stack([model.score(params, whole[:1])[0, 4], model.score(params, whole[1:, :4])[0, 3]])
    torch.testing.assert_close(found, expected)


def test_an_answer_that_ends_is_another_than_one_that_was_cut_off() -> None:
    model = scalar_model(transformer(small()))
    params = model.init(random.key(0))
    tokens = torch.tensor([[1, 2, 3], [1, 2, 3]])
    labels = torch.tensor([[-100, 3, 9], [-100, 3, -100]])
    ended, cut = answer_scores(params, tokens, labels, score=model.score)
    assert ended != cut


def test_it_learns_the_preference_also_on_held_out_pairs() -> None:
    """The better answer has the higher second token."""
    model = transformer(small())
    made = reward(model, optim.adam(1e-2))

    def pairs(number: int) -> dict[str, torch.Tensor]:
        drawn = random.randint(random.key(number), (16, 3), 1, 17).long()
        low, high = drawn[:, 1:].aminmax(dim=1)
        sides = {"chosen": high, "rejected": low}
        rows = {name: torch.stack([drawn[:, 0], x, torch.zeros_like(x)], 1) for name, x in sides.items()}
        return {
            key: value
            for name, x in rows.items()
            for key, value in (
                (f"{name}_tokens", x),
                (f"{name}_labels", torch.stack([x[:, 1], *[x[:, 2] - 100] * 2], 1)),
            )
        }

    state = functools.reduce(made.step, [pairs(i) for i in range(60)], made.init(random.key(0)))
    after = made.step(state, pairs(1000))
    assert after.metrics["rewards/accuracies"] > 0.85
    assert after.metrics["rewards/margins"] > 0.5
