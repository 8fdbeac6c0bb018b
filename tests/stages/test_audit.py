"""Audits: values and gradients of every variant on one batch, and divergences enumerated exactly."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pure import optim, random, tree
from pure.generation.sampling import Sampling
from pure.loss.grpo import CLIPS
from pure.loss.kl import ESTIMATORS, exact_kl
from pure.nn.transformer import transformer
from pure.transform.grad import grad, value_and_grad
from pure.types import Tree
from stages.audit import EXACT, audit_grpo, audit_losses, divergences
from stages.grpo import grpo
from stages.rollout import Rollouts, arrange, completion_states, policy_log_probabilities
from stages.stage import examples_of, loss_of
from tests.laws.test_stages import small

V, M, TEMPERATURE = 4, 3, 0.7
MODEL = transformer(small(vocab_size=V, num_hidden_layers=1))
POLICY, REFERENCE = (tree.map(lambda x: 3 * x.double(), MODEL.init(random.key(seed))) for seed in (1, 2))
LOGPS = policy_log_probabilities(MODEL, temperature=TEMPERATURE)
SAMPLING = Sampling(max_new_tokens=M, temperature=TEMPERATURE)


def every_completion() -> Rollouts:
    """All V^M completions of one prompt of two tokens, with their log-probabilities under the policy."""
    completions = torch.tensor(list(itertools.product(range(V), repeat=M)))
    rows = len(completions)
    prompts, lengths = torch.tensor([[1, 2]]).expand(rows, -1), torch.full((rows,), 2)
    row, ends = torch.zeros(rows, dtype=torch.long), torch.full((rows,), M)
    blank = arrange(prompts, lengths, completions, ends, torch.zeros(rows, M).double(), row, ())
    return blank._replace(logps=LOGPS(POLICY, blank).logps)


ROLLOUTS = every_completion()
PROBABILITIES = ROLLOUTS.logps.sum(1).exp()
BATCH: Tree = {
    **{name: x[:, None] for name, x in ROLLOUTS._asdict().items()},
    "reference_logps": LOGPS(REFERENCE, ROLLOUTS).logps[:, None],
    "batch_position": torch.arange(V**M),
    "weights": PROBABILITIES,
}
LOSSES = divergences(MODEL, REFERENCE, temperature=TEMPERATURE)


def expected(name: str) -> tuple[Tensor, Tree]:
    """Mean over all completions, by their probabilities, of a divergence summed over tokens; its gradient."""
    return value_and_grad(lambda p: LOSSES[name](p, BATCH, None)[0])(POLICY)


def divergence(params: Tree) -> Tensor:
    """KL(policy, reference) over all completions, by enumeration."""
    policy, reference = (LOGPS(p, ROLLOUTS).logps.sum(1) for p in (params, REFERENCE))
    return (policy.exp() * (policy - reference)).sum()


def assert_near(a: Tree, b: Tree) -> None:
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)


def test_the_probabilities_of_all_completions_add_up_to_one() -> None:
    torch.testing.assert_close(PROBABILITIES.sum(), torch.tensor(1.0).double())


@pytest.mark.parametrize("name", ["kl k1", "kl k3", "kl k3+", EXACT])
def test_the_mean_of_each_unbiased_divergence_is_that_of_whole_completions(name: str) -> None:
    torch.testing.assert_close(expected(name)[0], divergence(POLICY))


def test_mean_gradients_of_estimators_equal_those_that_their_formulas_have() -> None:
    """At fixed prefixes: k2 and k3+ have the gradient of the exact divergence; k1 has none; k3 another."""
    exact = expected(EXACT)[1]
    assert_near(expected("kl k2")[1], exact)
    assert_near(expected("kl k3+")[1], exact)
    assert_near(expected("kl k1")[1], tree.zeros_like(exact))
    apart = tree.norm(tree.map(lambda x, y: x - y, expected("kl k3")[1], exact)) / tree.norm(exact)
    assert apart > 0.1


def test_the_gradient_over_whole_completions_adds_that_of_the_prefixes_probabilities() -> None:
    """∇ KL = Σ_c π(c) (∇ exact + ∇log π(c) Σ_t exact_t of the later tokens): the score-function part."""
    whole = grad(divergence)(POLICY)

    def logits(params: Tree) -> Tensor:
        return MODEL.logits(params, completion_states(MODEL.hidden, params, ROLLOUTS)) / TEMPERATURE

    per_token = exact_kl(logits(POLICY), logits(REFERENCE))
    later = per_token.flip(1).cumsum(1).flip(1) - per_token
    score_part = grad(lambda p: (PROBABILITIES[:, None] * LOGPS(p, ROLLOUTS).logps * later).sum())
    total = tree.map(torch.add, expected(EXACT)[1], score_part(POLICY))
    assert_near(total, whole)


def sampled_batch() -> tuple[Rollouts, Tensor]:
    """Eight completions in groups of four, of unequal lengths, under an older policy."""
    rows = torch.tensor([3, 17, 22, 40, 41, 50, 60, 63])
    picked = tree.map(lambda x: x[rows], ROLLOUTS)
    mask = torch.arange(M) < torch.tensor([1, 2, 3, 3, 2, 1, 3, 2])[:, None]
    logps = torch.where(mask, picked.logps + 0.3 * random.normal(random.key(4), (8, M)), 0.0)
    rewards = random.uniform(random.key(5), (8, 1))
    return picked._replace(mask=mask, logps=logps), rewards


def test_an_audit_of_grpo_equals_each_stage_alone() -> None:
    rollouts, rewards = sampled_batch()
    audit = audit_grpo(MODEL, POLICY, rollouts, rewards, sampling=SAMPLING, samples=4, reference=REFERENCE)
    assert audit.names == (*CLIPS, *(f"kl {name}" for name in ESTIMATORS), EXACT)
    gradients = []
    for number, variant in enumerate(CLIPS):
        made = grpo(MODEL, optim.sgd(1.0), score=None, sampling=SAMPLING, samples=4, variant=variant)
        state = made.init(random.key(0), POLICY)
        after = made.step(state, {**rollouts._asdict(), "rewards": rewards})
        step = tree.map(lambda x, y: (x - y).flatten(), state.params, after.params)
        gradients.append(torch.cat(tree.leaves(step)))
        torch.testing.assert_close(audit.values[number].float(), after.metrics["loss"])
        torch.testing.assert_close(audit.norms[number], gradients[-1].norm())
    for i, j in itertools.combinations_with_replacement(range(len(CLIPS)), 2):
        cosine = torch.nn.functional.cosine_similarity(gradients[i], gradients[j], dim=0)
        torch.testing.assert_close(audit.cosines[i, j], cosine)
        assert audit.cosines[i, j] == audit.cosines[j, i]


def test_a_loss_without_gradient_has_no_direction() -> None:
    rollouts, rewards = sampled_batch()
    audit = audit_grpo(MODEL, POLICY, rollouts, torch.ones_like(rewards), sampling=SAMPLING, samples=4)
    assert audit.names == tuple(CLIPS)
    assert audit.norms.eq(0).all()
    assert audit.cosines.isnan().all()


def test_the_rows_of_an_audit_may_be_single_completions() -> None:
    rollouts, rewards = sampled_batch()
    made = grpo(MODEL, optim.sgd(1.0), score=None, sampling=SAMPLING, samples=4)
    rows = examples_of(made, made.init(random.key(0), POLICY), rollouts, rewards)
    audit = audit_losses({"dapo": loss_of(made)}, POLICY, rows)
    whole = audit_grpo(MODEL, POLICY, rollouts, rewards, sampling=SAMPLING, samples=4, variants=("dapo",))
    torch.testing.assert_close(audit.values, whole.values)
    torch.testing.assert_close(audit.norms, whole.norms)


def test_values_are_means_for_weights_below_one_too() -> None:
    def loss(params: Tensor, batch: Tree, key: Tensor | None) -> tuple[Tensor, Tensor, dict]:
        return (params * batch["weights"]).sum(), batch["weights"].sum(), {}

    audit = audit_losses({"mean": loss}, torch.tensor(3.0), {"weights": torch.tensor([0.25, 0.25])})
    torch.testing.assert_close(audit.values, torch.tensor([3.0]))
    torch.testing.assert_close(audit.norms, torch.tensor([1.0], dtype=torch.float64))


def test_nothing_to_audit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one loss"):
        audit_losses({}, POLICY, BATCH)
    rollouts, rewards = sampled_batch()
    with pytest.raises(ValueError, match="variant must be one of"):
        audit_grpo(MODEL, POLICY, rollouts, rewards, sampling=SAMPLING, samples=4, variants=("ppo",))
