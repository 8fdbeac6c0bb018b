"""Direct preference optimization: train a policy on pairs of answers, close to a frozen reference.

The mathematics is in `pure/loss/dpo.py` and `pure/loss/orpo.py`.

Shape letters: B pairs, T tokens.

Rafailov et al., "Direct Preference Optimization", 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pure.foreign import check_model
from pure.loss.check import check_range
from pure.loss.cross_entropy import IGNORE
from pure.loss.dpo import VARIANTS, dpo_loss
from pure.loss.log_probability import Head, linear_log_probabilities
from pure.loss.orpo import orpo_loss
from pure.transform.frozen import frozen
from pure.transform.jit import region
from pure.transform.precision import cast_params
from pure.types import GradientTransformation, Model, Tree
from stages.reward import side_keys
from stages.stage import Stage, stage
from stages.weights import counted_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from stages.stage import StageOptions

METRICS = (
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen",
    "logps/rejected",
)  # fmt: skip
REFERENCE_FREE = ("simpo", "orpo")
"""Variants that use no reference model."""


def dpo(
    model: Model,
    optimizer: GradientTransformation,
    *,
    reference: Tree | None = None,
    beta: float = 0.1,
    variant: str = "sigmoid",
    label_smoothing: float = 0.0,
    margin: float = 0.5,
    disable_dropout: bool = True,
    compute: torch.dtype = torch.float32,
    chunk: int | None = None,
    **options: Unpack[StageOptions],
) -> Stage:
    """Build the stage that trains on preference pairs.

    Args:
        model: from `pure.nn.transformer.transformer`, or any other.
        optimizer: a GradientTransformation.
        reference: params of the frozen reference model, usually the initial ones. None: the batches already
            have "reference_chosen" and "reference_rejected" [B] (`data_pipes.preference.with_reference`),
            which saves a forward pass in every step; or the variant has no reference (simpo, orpo).
        beta: weight of the implicit KL penalty, see `pure.loss.dpo.dpo_loss`; of orpo the weight of its odds
            ratio.
        variant: sigmoid, conservative, robust, ipo, hinge, simpo, or orpo.
        label_smoothing, margin: see `pure.loss.dpo.dpo_loss`.
        disable_dropout: disable dropout in model and adapters, as TRL does: policy and reference then agree
            before the first update, and all rewards are 0. The reference never uses dropout.
        compute: dtype of the forward and backward pass; params keep theirs.
        chunk: rows whose logits are computed at a time, to bound memory; None computes all at once.
        options: of `stages.stage.stage`.

    Returns:
        Stage(init, step) for batches {"chosen_tokens", "chosen_labels", "rejected_tokens", "rejected_labels"}
        [B, T], labels already shifted and -100 outside the answer. Metrics have TRL's names.

    Raises:
        ValueError: for an unknown variant, a beta not above 0, or a reference for a variant that has none.
    """
    check_model("dpo", model)
    if variant not in (*VARIANTS, "orpo"):
        raise ValueError(f"dpo: variant must be one of {', '.join(VARIANTS)} or orpo, got {variant!r}")
    check_range("dpo", "at least 0" if variant == "orpo" else "above 0", beta=beta)
    if variant in REFERENCE_FREE and reference is not None:
        raise ValueError(f"dpo: variant {variant!r} has no reference; leave reference=None")
    head = region(partial(linear_log_probabilities, logits=model.logits, chunk=chunk))
    logps_fn = partial(answer_log_probabilities, model=model, head=head)
    if variant == "orpo":
        loss_fn: Callable[..., Any] = partial(orpo_loss, beta=beta)
    else:
        loss_fn = partial(
            dpo_loss, variant=variant, label_smoothing=label_smoothing, margin=margin, beta=beta
        )
    loss = partial(
        pair_loss,
        logps_fn=logps_fn,
        loss_fn=loss_fn,
        reference=None if reference is None else cast_params(reference, compute),
        variant=variant,
        dropout=not disable_dropout,
    )
    return stage(loss, optimizer, init=model.init, metrics=METRICS, compute=compute, **options)


def pair_loss(
    params: Tree,
    batch: Tree,
    key: Tensor | None,
    *,
    logps_fn: Callable[..., Tensor],
    loss_fn: Callable[..., Any],
    reference: Tree | None,
    variant: str,
    dropout: bool,
) -> tuple[Tensor, Tensor, dict]:
    """Sum the loss of every pair.

    Args:
        params: the policy's.
        batch: chosen_tokens, chosen_labels, rejected_tokens, rejected_labels [B, T], batch_position [B];
            optional: reference_chosen, reference_rejected, weights [B]. A pair without labels is padding.
        key: [2]; dropout folds in each pair's batch_position and side. None disables dropout, for validation.
        logps_fn: (params, tokens, labels, key=) -> log-probabilities of the answers [2 B].
        loss_fn: `dpo_loss` or `orpo_loss` with its options.
        reference, variant, dropout: bound by `dpo`.

    Returns:
        (sum [], count [] pairs, metrics).

    Steps:
        1. Log-probabilities of both answers, in one pass.
        2. Log-probabilities under the reference: from the batch, computed here, or none.
        3. The loss of each pair; padding does not count.
        4. Metrics.

    Raises:
        ValueError: if the variant needs a reference and there is none.
    """
    tokens = torch.cat([batch["chosen_tokens"], batch["rejected_tokens"]])
    labels = torch.cat([batch["chosen_labels"], batch["rejected_labels"]])
    # 1. Policy.
    keys = side_keys(key, batch["batch_position"]) if dropout else None
    chosen, rejected = logps_fn(params, tokens, labels, key=keys).chunk(2)
    lengths = (labels != IGNORE).sum(1).chunk(2)
    counts = {"chosen_tokens": lengths[0], "rejected_tokens": lengths[1]}
    # 2. Reference.
    references: tuple = () if variant == "orpo" else (None, None)  # orpo_loss has no such arguments
    if "reference_chosen" in batch and variant not in REFERENCE_FREE:
        references = (batch["reference_chosen"], batch["reference_rejected"])
    elif reference is not None:
        references = frozen(logps_fn)(reference, tokens, labels).chunk(2)
    elif variant not in REFERENCE_FREE:
        raise ValueError(
            f"dpo: variant {variant!r} needs a reference; give reference=params, or batches with "
            "reference_chosen and reference_rejected (data_pipes.preference.with_reference)"
        )
    # 3. Loss.
    result = loss_fn(chosen, rejected, *references, **counts)
    counted = counted_rows(batch, (lengths[0] > 0) & (lengths[1] > 0))
    count = counted.sum()
    # 4. Metrics.
    margins = result.chosen_rewards - result.rejected_rewards
    values = (result.chosen_rewards, result.rejected_rewards, margins, margins > 0, chosen, rejected)
    metrics = {name: ((x.detach() * counted).sum(), count) for name, x in zip(METRICS, values, strict=True)}
    return (result.losses * counted).sum(), count, metrics


def answer_log_probabilities(
    params: Tree, tokens: Tensor, labels: Tensor, *, model: Model, head: Head, key: Tensor | None = None
) -> Tensor:
    """Sum the log-probabilities of each row's labels.

    Args:
        params: the model's.
        tokens: [B, T] integers.
        labels: [B, T] integers, already shifted; -100 outside the answer.
        model: gives `hidden`.
        head: (params, hidden, labels) -> LogProbabilities.
        key: [B, 2] for dropout, or None.

    Returns:
        [B] float32, nats.
    """
    return head(params, model.hidden(params, tokens, key=key), labels).logps.sum(1)
