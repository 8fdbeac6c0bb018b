"""Pipes of preferences: pairs of a chosen and a rejected answer, or single answers with a desirable label.

Shape letters: B pairs or answers in a batch, R pairs or answers in all, T tokens in a row, V vocabulary.

Rafailov et al., "Direct Preference Optimization", 2023, arXiv 2305.18290; Ethayarajh et al., "KTO", 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from data_pipes.chat.chat import Encoded
from data_pipes.ragged import Ragged, concatenate, pad_rows
from data_pipes.record_encoding import Answer, Pair
from data_pipes.table import TablePipe, table_pipe
from pure import tree
from pure.loss.log_probability import log_probabilities
from pure.types import Model, Tree

REFERENCE_ROWS = 8
"""Default batch size of `with_reference`; its logits [rows, T, V] must fit into memory."""


class PreferenceTable(NamedTuple):
    """The table of `preference_pipe` and `unpaired_pipe`.

    Fields:
        sides: the encoded answers, (chosen, rejected) or (completion,), R examples each.
        numbers: [R] int64, index of each pair or answer in the sequence that the pipe was built from.
        desirable: [R] bool for single answers, [0] for pairs.
        references: for each side [R] float32, nats, log-probability of the answer under the reference model;
            () before `with_reference`.
    """

    sides: tuple[Ragged, ...]
    numbers: np.ndarray
    desirable: np.ndarray
    references: tuple[np.ndarray, ...] = ()


def preference_pipe(
    pairs: Sequence[Pair], *, batch_size: int, length: int, key: Any, epochs: int = 1, shuffle: bool = True
) -> TablePipe:
    """Builds the pipe of preference pairs (DPO), reshuffled each epoch.

    Args:
        pairs: from `encode_preferences`. If an answer with its prompt has more than T + 1 tokens, the prompt
            of both sides is truncated on the left by the same amount, down to one token, so that both answers
            are complete and have the same prompt; a side that is still too long is truncated on the right.
        batch_size: B, pairs.
        length: T, tokens in a row.
        key: a seed or a key [2] uint32; None only with shuffle=False.
        epochs: passes through the pairs.
        shuffle: False keeps their order.

    Returns:
        A sequence of ceil(epochs R / B) batches: "chosen_tokens", "chosen_labels", "rejected_tokens" and
        "rejected_labels" [B, T] int64, padded on the right with token 0; labels are shifted, and -100 outside
        the answer; "row" [B] int64, the pair's index in `pairs`. The last batch may end with padding rows,
        "row" -1. `truncated` counts the pairs that were truncated, `dropped` those with an empty answer or
        two equal answers (two long answers may become equal by truncation).

    Raises:
        ValueError: if no pair is left, or a size is below 1.
        TypeError: if the key is missing.

    Example:
        >>> def encoded(*tokens): return Encoded(np.array(tokens), np.arange(len(tokens)) > 1)
        >>> pair = Pair(encoded(1, 2, 3), encoded(1, 2, 4, 5))
        >>> batch = preference_pipe([pair], batch_size=1, length=3, key=0)[0]
        >>> batch["chosen_tokens"].tolist(), batch["rejected_labels"].tolist()
        ([[1, 2, 0]], [[-100, 4, 5]])
    """
    options = {"batch_size": batch_size, "key": key, "epochs": epochs, "shuffle": shuffle}
    return _build_pipe("preference", pairs, None, length, ("chosen", "rejected"), options)


def unpaired_pipe(
    answers: Sequence[Answer],
    *,
    batch_size: int,
    length: int,
    key: Any,
    epochs: int = 1,
    shuffle: bool = True,
) -> TablePipe:
    """Builds the pipe of single answers (KTO), reshuffled each epoch.

    Args:
        answers: from `encode_unpaired`; those that are too long are truncated as in `preference_pipe`.
        batch_size: B, answers.
        length: T, tokens in a row.
        key: a seed or a key [2] uint32; None only with shuffle=False.
        epochs: passes through the answers.
        shuffle: False keeps their order.

    Returns:
        A sequence of ceil(epochs R / B) batches: "tokens" and "labels" [B, T] int64, as in `preference_pipe`;
        "desirable" [B] bool, False for padding; "row" [B] int64, the answer's index in `answers`, -1 for
        padding.

    Raises:
        ValueError: if no answer is left, or a size is below 1.
        TypeError: if the key is missing.
    """
    options = {"batch_size": batch_size, "key": key, "epochs": epochs, "shuffle": shuffle}
    labels = [answer.desirable for answer in answers]
    rows = [(answer.completion,) for answer in answers]
    return _build_pipe("unpaired", rows, labels, length, ("",), options)


def with_reference(
    pipe: TablePipe, model: Model, params: Tree, *, batch_size: int = REFERENCE_ROWS
) -> TablePipe:
    """Adds log-probabilities of a frozen reference model, computed once instead of in every step.

        reference = Σ_t log p(label_t | tokens before it)        over the answer's tokens

    Args:
        pipe: from `preference_pipe` or `unpaired_pipe`; for a slice of a pipe, the new pipe is that slice.
        model: the reference model.
        params: its weights.
        batch_size: rows in one forward pass; the logits [rows, T, V] must fit into memory.

    Returns:
        The same pipe, whose batches also have "reference_chosen" and "reference_rejected" (of single answers:
        "reference") [B] float32, nats, 0 for padding.

    Raises:
        ValueError: for a pipe of another kind, or batch_size below 1.
    """
    if not isinstance(pipe.table, PreferenceTable) or batch_size < 1:
        raise ValueError(
            "with_reference: expected a pipe from preference_pipe or unpaired_pipe and batch_size >= 1, got "
            f"{pipe.about['pipe']} and {batch_size}"
        )
    logps = tuple(_answer_logps(side, model, params, batch_size) for side in pipe.table.sides)
    return replace(pipe, table=pipe.table._replace(references=logps))


def take(
    table: PreferenceTable, rows: np.ndarray, *, length: int, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Gathers pairs or answers from the table into a padded batch.

    Args:
        table: the encoded answers.
        rows: [B] int64, -1 for padding.
        length: T.
        names: names of the sides, prefixes of the batch's keys; "" for single answers.

    Returns:
        {name: [B, ...]}, see `preference_pipe` and `unpaired_pipe`.
    """
    is_row = rows >= 0
    batch = {"row": np.where(is_row, table.numbers[rows], -1)}
    for i, name in enumerate(names):
        prefix, suffix = (f"{name}_", f"_{name}") if name else ("", "")
        batch[f"{prefix}tokens"], batch[f"{prefix}labels"] = pad_rows(table.sides[i], rows, length)
        if table.references:
            batch[f"reference{suffix}"] = np.where(is_row, table.references[i][rows], np.float32(0))
    if len(table.desirable):
        batch["desirable"] = is_row & table.desirable[rows]
    return batch


def truncate_sides(sides: Sequence[Encoded], length: int) -> tuple[list[Encoded], bool]:
    """Truncates the sides of a pair (or a single answer) to T + 1 tokens each, prompts before answers.

    A preference compares two answers to one prompt. So the beginning of the prompt goes first, by the same
    amount on both sides, and an answer is cut only if that is not enough.

        excess = max(0, the largest end of an answer - (T + 1))
        cut = max(0, min(excess, P - 1))

    with T = length, P the number of tokens of the shorter prompt.

    Args:
        sides: one or two, each a prompt (not trained on) followed by an answer (trained on).
        length: T >= 1; a row of T positions holds T + 1 tokens, as labels are shifted.

    Returns:
        (sides of at most T + 1 tokens, True if a token of a prompt or an answer was cut).

    Steps:
        1. If no side has more than T + 1 tokens, return them unchanged (as a list), and False.
        2. The answer of a side ends with its last trained token; what follows (such as a newline) is not
           needed. The excess is the number of tokens by which the longest side, up to this end, exceeds
           T + 1, at least 0.
        3. The prompt is the tokens before the first trained one; of two sides the shorter counts. Cut the
           excess from its beginning, but leave it one token.
        4. Keep of each side the tokens, and the mask, from the cut to the end of its answer, at most T + 1.
           A token was cut if the excess is above 0.

    Edge cases: a side without a trained token counts as all answer, with an empty prompt; nothing is cut
    from the left then. A pair may be equal afterwards; the pipe drops it.

    Example:
        A prompt of 3 tokens and an answer of 2, for T = 3: one token too many.

        >>> side = Encoded(np.array([1, 2, 3, 4, 5]), np.array([False, False, False, True, True]))
        >>> (fitted,), was_cut = truncate_sides([side], 3)
        >>> fitted.tokens.tolist(), was_cut
        ([2, 3, 4, 5], True)
    """
    # 1. Sides that all fit are unchanged.
    room = length + 1
    if all(len(side.tokens) <= room for side in sides):
        return list(sides), False
    # 2. Ends of the answers, and the excess of the longest.
    ends = [len(side.trained) - int(side.trained[::-1].argmax()) for side in sides]
    excess = max(0, max(ends) - room)
    # 3. Tokens to cut from the prompt.
    prompt_length = min(int(side.trained.argmax()) for side in sides)
    cut = max(0, min(excess, prompt_length - 1))
    # 4. Tokens and masks.
    fitted = [
        Encoded(side.tokens[cut:end][:room], side.trained[cut:end][:room])
        for side, end in zip(sides, ends, strict=True)
    ]
    return fitted, excess > 0


def _build_pipe(
    name: str,
    answers: Sequence[tuple[Encoded, ...]],
    labels: list[bool] | None,
    length: int,
    side_names: tuple[str, ...],
    options: dict[str, Any],
) -> TablePipe:
    """Builds either pipe: truncates the answers, and drops rows that `_is_usable` rejects."""
    fitted = [truncate_sides(row, length) for row in answers] if length > 0 else []
    kept = [i for i, (row, _) in enumerate(fitted) if _is_usable(row)]
    kept_rows = [fitted[i][0] for i in kept]
    columns = [[row[side] for row in kept_rows] for side in range(len(side_names))]
    table = PreferenceTable(
        tuple(concatenate(column, f"{name}_pipe") for column in columns),
        np.array(kept, np.int64),
        np.array([] if labels is None else [labels[i] for i in kept], bool),
    )
    return table_pipe(
        table,
        partial(take, length=length, names=side_names),
        rows=len(kept),
        about={"pipe": name, "length": length},
        truncated=sum(was_cut for _, was_cut in fitted),
        dropped=len(fitted) - len(kept),
        **options,
    )


def _is_usable(sides: Sequence[Encoded]) -> bool:
    """False if an answer has no token to train on, or the two answers are equal."""
    if not all(side.trained[1:].any() for side in sides):
        return False
    if len(sides) < 2:
        return True
    chosen, rejected = sides
    return not (
        np.array_equal(chosen.tokens, rejected.tokens) and np.array_equal(chosen.trained, rejected.trained)
    )


def _answer_logps(side: Ragged, model: Model, params: Tree, batch_size: int) -> np.ndarray:
    """Sums the log-probabilities of each example's labels: [R] float32."""
    examples = len(side.starts) - 1
    width = int(np.diff(side.starts).max()) - 1
    device = tree.leaves(params)[0].device
    logps = []
    with torch.no_grad():
        for first in range(0, examples, batch_size):
            rows = np.arange(first, first + batch_size)
            rows[rows >= examples] = -1  # padding rows keep the shape constant, so the model is compiled once
            tokens, labels = (torch.from_numpy(x).to(device) for x in pad_rows(side, rows, width))
            logps.append(log_probabilities(model.forward(params, tokens), labels).sum(1).cpu().numpy())
    return np.concatenate(logps)[:examples].astype(np.float32)
