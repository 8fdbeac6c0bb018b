"""Kahneman-Tversky optimization: train a policy on single answers marked desirable or not, without pairs.

The mathematics is in `pure/loss/kto.py`.

Shape letters: B answers, T tokens.

Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pure import random
from pure.foreign import check_model
from pure.loss.check import check_range
from pure.loss.cross_entropy import IGNORE
from pure.loss.kto import kto_loss, mismatched_divergence
from pure.loss.log_probability import linear_log_probabilities
from pure.parallel.agreement import by_rows
from pure.parallel.group import run_within
from pure.parallel.layers import gather_for_model
from pure.transform.frozen import frozen
from pure.transform.jit import region
from pure.transform.modes import may_be_differentiated
from pure.transform.precision import cast_params
from pure.types import GradientTransformation, Model, Tree
from stages.dpo import answer_log_probabilities
from stages.stage import Stage, stage
from stages.state import TrainState
from stages.weights import counted_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from stages.stage import StageOptions

METRICS = ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "kl")
MARGINS = "rewards/margins"


def kto(
    model: Model,
    optimizer: GradientTransformation,
    *,
    reference: Tree,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    disable_dropout: bool = True,
    compute: torch.dtype = torch.float32,
    chunk: int | None = None,
    **options: Unpack[StageOptions],
) -> Stage:
    """Build the stage that trains on single answers.

    The KL divergence z₀ is estimated once a step from the whole batch, before it is cut into micro-batches,
    with the answers of other prompts, see `mismatched`.

    Args:
        model: from `pure.nn.transformer.transformer`, or any other Model.
        optimizer: a GradientTransformation.
        reference: params of the frozen policy, usually the initial ones.
        beta: weight of the implicit KL penalty, > 0, see `pure.loss.kto.kto_loss`.
        desirable_weight, undesirable_weight: weights of the losses of desirable and undesirable answers, > 0.
        disable_dropout: train without the dropout of model and adapters, as TRL does. The reference and z₀
            are always computed without dropout.
        compute: dtype of the forward and backward pass; params keep theirs.
        chunk: rows whose logits are computed at a time, to bound memory; None computes all at once.
        options: of `stages.stage.stage`.

    Returns:
        Stage(init, step, loss) for batches {"tokens", "labels" [B, T], "desirable" [B]}, labels already
        shifted and -100 outside the answer; optional: "reference" [B]
        (`data_pipes.preference.with_reference`), which saves a forward pass. Metrics have TRL's names. `loss`
        estimates z₀ from its batch, unless the batch has "divergence" [B].

    Edge cases: a batch of one answer has no other prompt: z₀ is then computed from that answer after its own
    prompt. Without a desirable answer "rewards/chosen" and "logps/chosen" are 0, likewise without an
    undesirable one, and "rewards/margins" is NaN, as there is no difference.

    Raises:
        ValueError: if beta or a weight is not above 0.
    """
    check_model("kto", model)
    weights: dict[str, Any] = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
    check_range("kto", "above 0", beta=beta, **weights)
    head = region(partial(linear_log_probabilities, logits=model.logits, chunk=chunk))
    reference = cast_params(reference, compute)
    logps_fn = partial(answer_log_probabilities, model=model, head=head)
    divergence_fn = partial(divergence, logps_fn=logps_fn, reference=reference)
    loss = partial(
        answers_loss,
        logps_fn=logps_fn,
        reference=reference,
        divergence_fn=divergence_fn,
        dropout=not disable_dropout,
        beta=beta,
        **weights,
    )
    inner = stage(loss, optimizer, init=model.init, metrics=METRICS, compute=compute, **options)
    step_fn = partial(step, inner=inner, divergence_fn=divergence_fn, compute=compute)
    return Stage(partial(init, inner=inner), step_fn, inner.loss)


def init(key: Tensor, params: Tree | None = None, *, inner: Stage) -> TrainState:
    """Return the initial state, with the margins among its metrics.

    Args:
        key: [2] uint32.
        params: params to start from; None initialises new ones.
        inner: bound by `kto`.
    """
    state = inner.init(key, params)
    return state._replace(metrics=state.metrics | {MARGINS: torch.full((), torch.nan, device=key.device)})


def step(
    state: TrainState, batch: Tree, *, inner: Stage, divergence_fn: partial[Tensor], compute: torch.dtype
) -> TrainState:
    """Estimate z₀ from the whole batch, then take one optimizer step.

    Args:
        state: the current state; it is not modified.
        batch: see `kto`.
        inner, divergence_fn, compute: bound by `kto`.

    Returns:
        The next state.
    """
    policy = cast_params(gather_for_model(state.params), compute)
    estimate = divergence_fn(policy, batch)
    new = inner.step(state, {**batch, "divergence": estimate.expand(len(batch["tokens"]))})
    desirable, real = batch["desirable"], (batch["labels"] != IGNORE).any(1)
    has_both = (desirable & real).any() & (~desirable & real).any()
    difference = new.metrics["rewards/chosen"] - new.metrics["rewards/rejected"]
    margins = torch.where(has_both, difference, torch.nan)
    return new._replace(metrics=new.metrics | {MARGINS: margins})


def answers_loss(
    params: Tree,
    batch: Tree,
    key: Tensor | None,
    *,
    logps_fn: Callable[..., Tensor],
    reference: Tree,
    divergence_fn: partial[Tensor],
    dropout: bool,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> tuple[Tensor, Tensor, dict]:
    """Return the sum of the losses of all answers.

    Args:
        params: the policy's.
        batch: tokens, labels [B, T], desirable, batch_position [B]; optional: reference, divergence, weights
            [B]; z₀ is estimated without the weights. An answer without labels is padding.
        key: [2]; dropout folds in each answer's batch_position. None disables dropout, for validation.
        logps_fn, reference, divergence_fn, dropout: bound by `kto`.
        beta, desirable_weight, undesirable_weight: see `kto`.

    Returns:
        (sum [], count [] answers, metrics).

    Steps:
        1. Log-probabilities under the policy, then under the reference: from the batch, or computed.
        2. z₀, of the whole batch.
        3. The loss of each answer; padding does not count.
        4. Metrics.

    Raises:
        ValueError: if one answer alone, without "divergence", is differentiated, as in gradients per sample.
    """
    tokens, labels, desirable = batch["tokens"], batch["labels"], batch["desirable"]
    # 1. Log-probabilities.
    keys = None
    if key is not None and dropout:
        keys = torch.func.vmap(random.fold_in, (None, 0))(key, batch["batch_position"])
    logps = logps_fn(params, tokens, labels, key=keys)
    reference_logps = batch.get("reference")
    if reference_logps is None:
        reference_logps = frozen(logps_fn)(reference, tokens, labels)
    # 2. z₀, the same number for every answer.
    alone = "divergence" not in batch and len(tokens) == 1
    if alone and not torch.compiler.is_compiling() and may_be_differentiated(params):
        raise ValueError(
            "kto: an answer alone has no other prompt to estimate z₀ from; give the rows z₀ of the whole "
            "batch: total, count = loss(params, batch, None)[2]['kl'], and "
            "batch['divergence'] = (total / count).expand(rows)"
        )
    estimate = (
        batch["divergence"][0] if "divergence" in batch else run_within(divergence_fn, None, params, batch)
    )
    # 3. Loss.
    weights: dict[str, Any] = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
    losses, rewards = kto_loss(logps, reference_logps, desirable, estimate, beta=beta, **weights)
    real = (labels != IGNORE).any(1)
    counted = counted_rows(batch, real)
    count = counted.sum()
    # 4. Metrics.
    metrics = {"kl": (estimate * count, count)}
    for name, rows in (("chosen", desirable & real), ("rejected", ~desirable & real)):
        side = torch.where(rows, counted, 0.0)
        for metric, values in (("rewards", rewards), ("logps", logps.detach())):
            metrics[f"{metric}/{name}"] = (torch.where(rows, values * side, 0.0).sum(), side.sum())
    return torch.where(real, losses * counted, 0.0).sum(), count, metrics


def divergence(params: Tree, batch: Tree, *, logps_fn: Callable[..., Tensor], reference: Tree) -> Tensor:
    """Estimate z₀, the KL divergence of the policy from the reference, from mismatched answers.

    Args:
        params: the policy's.
        batch: tokens, labels [B, T]; answers first, padding after them.
        logps_fn, reference: bound by `kto`.

    Returns:
        [] nats, >= 0, without gradient.
    """
    tokens, labels = mismatched(batch["tokens"], batch["labels"])
    compute = by_rows(lambda params, batch: frozen(logps_fn)(params, *batch))
    policy_logps, reference_logps = (compute(x, (tokens, labels)) for x in (params, reference))
    answers = (labels != IGNORE).any(1).sum().clamp(min=1)
    # The mean without padding.
    return mismatched_divergence(policy_logps, reference_logps) * (len(tokens) / answers)


def mismatched(tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Put the answer of row b + 1 after the prompt of row b; the first row's after the last one's.

    Args:
        tokens: [B, T] integers, prompt and answer, padded on the right; rows of padding last.
        labels: [B, T] integers, already shifted; -100 outside the answer.

    Returns:
        (tokens [B, T], labels [B, T]); an answer that does not fit is cut on the right.

    Edge cases: rows of padding have no labels.

    Example:
        Prompts 1 and 2 3, answers 7 and 8 9.

        >>> tokens = torch.tensor([[1, 7, 0], [2, 3, 8]])
        >>> labels = torch.tensor([[7, -100, -100], [-100, 8, 9]])
        >>> [x.tolist() for x in mismatched(tokens, labels)]
        [[[1, 8, 0], [2, 3, 7]], [[8, 9, -100], [-100, 7, -100]]]

    Source: Ethayarajh et al. 2024, section 4.1; TRL pairs prompts with the answer before theirs.
    """
    real = (labels != IGNORE).any(1)
    rows = torch.arange(len(tokens), device=tokens.device)
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    partner = (rows + 1) % real.sum().clamp(min=1)
    last = (labels != IGNORE).int().argmax(1, keepdim=True)  # last position of the prompt
    source = positions - last + last[partner]
    inside = (source >= 0) & (source < tokens.shape[1]) & real[:, None]
    source = source.clamp(0, tokens.shape[1] - 1)
    answers, answer_labels = tokens[partner].gather(1, source), labels[partner].gather(1, source)
    answer = inside & (positions > last)
    return (
        torch.where(positions <= last, tokens, torch.where(answer, answers, 0)),
        torch.where(inside & (positions >= last), answer_labels, IGNORE),
    )
