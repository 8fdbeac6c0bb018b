"""Sampling controls on the device: randomness, temperature and truncation, one value per row.

Shape letters: B rows, R padded rows, M new tokens at most, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import random
from pure.generation import sample
from pure.generation.sampling import Sampling


class Controls(NamedTuple):
    """Sampling parameters and randomness of each row.

    Fields:
        uniforms: [R, M] float32 in [0, 1), the randomness of each new token; 0 in greedy rows.
        temperature: [R] float32; values below 1e-6 became 0.
        top_k: an int, [R] int64 or None.
        top_p, min_p, repetition_penalty: [R] float32 or None.
        vocabulary: ids at or above this int are never sampled; None allows all.
    """

    uniforms: Tensor
    temperature: Tensor
    top_k: int | Tensor | None = None
    top_p: Tensor | None = None
    min_p: Tensor | None = None
    repetition_penalty: Tensor | None = None
    vocabulary: int | None = None


LIMITS: Mapping[str, tuple[Callable[[Tensor], Tensor], str]] = MappingProxyType(
    {
        "temperature": (lambda x: (x >= 0) & (x < torch.inf), "at least 0; 0 takes the likeliest token"),
        "top_k": (lambda x: x >= 1, "at least 1; None keeps all tokens"),
        "top_p": (lambda x: (x > 0) & (x <= 1), "in (0, 1]; None keeps all tokens"),
        "min_p": (lambda x: (x >= 0) & (x <= 1), "in [0, 1]; None keeps all tokens"),
        "repetition_penalty": (lambda x: (x > 0) & (x < torch.inf), "above 0; None or 1 changes nothing"),
    }
)
"""Sampling parameter -> (function that checks its values, description of the allowed values)."""


def make_controls(key: Tensor, count: int, sampling: Sampling, *, rows: int) -> Controls:
    """Check the sampling parameters, draw the randomness of all rows and steps, and pad both to R rows.

    Args:
        key: [2] or [B, 2] uint32, for the whole batch or one per row.
        count: B, rows.
        sampling: each parameter is one number for all rows, a tensor [B], or None; stop_tokens are not read.
        rows: R >= B; the rows after B are copies of the first, and are never read.

    Returns:
        Controls. An int top_k stays an int: then a partial sort is enough.

    Raises:
        ValueError: if a parameter is out of range or has another shape, or top_k or vocabulary is not an
            integer.

    Example:
        >>> make_controls(random.key(0), 2, Sampling(temperature=0.5), rows=4).temperature
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    vocabulary = sampling.vocabulary
    if vocabulary is not None and (type(vocabulary) is not int or vocabulary < 1):
        raise ValueError(
            f"generate: vocabulary must be a number of ids, at least 1, or None; got {vocabulary!r}"
        )
    parameters = {name: x for name in LIMITS if (x := getattr(sampling, name)) is not None}
    tensors = {name: torch.as_tensor(x, device=key.device) for name, x in parameters.items()}
    for name, x in tensors.items():
        holds, text = LIMITS[name]
        if x.shape not in ((), (count,)):
            raise ValueError(
                f"generate: {name} must be one number or [B] = [{count}], got shape {list(x.shape)}"
            )
        if name == "top_k" and x.is_floating_point():
            raise ValueError(f"generate: top_k counts tokens and must be an integer, got {parameters[name]}")
        if not bool(holds(x).all()):
            raise ValueError(f"generate: {name} must be {text}; got {x[~holds(x)].flatten()[0]}")
    per_row: dict[str, Any] = {
        name: pad_rows(x.expand(count), rows).to(torch.int64 if name == "top_k" else torch.float32)
        for name, x in tensors.items()
    }
    if isinstance(parameters.get("top_k"), int):
        per_row["top_k"] = parameters["top_k"]
    temperature = per_row["temperature"]
    greedy = temperature < sample.MIN_TEMPERATURE
    per_row["temperature"] = torch.where(greedy, 0.0, temperature)
    randomness = pad_rows(draw_uniforms(key, count, sampling.max_new_tokens), rows)
    return Controls(torch.where(greedy[:, None], 0.0, randomness), **per_row, vocabulary=vocabulary)


def draw_uniforms(key: Tensor, count: int, steps: int) -> Tensor:
    """Draw one number for each row and step, all at once: uniform(fold_in(fold_in(key, row), step)).

    Since each token has its own number, a row's samples do not depend on the other rows or their lengths.

        u[b, i] = uniform(fold_in(k_b, i)),     k_b = fold_in(key, b), or key[b] if there is one per row

    Args:
        key: [2] or [B, 2] uint32, for the whole batch, or each row's in place of fold_in(key, row).
        count: B, rows.
        steps: M.

    Returns:
        [B, M] float32 in [0, 1), on the device of key.

    Steps:
        1. Refuse a key that is neither [2] nor [B, 2] with `_check_key`.
        2. From one key [2] make one per row, [B, 2], with `random.fold_in(key, b)` of the row's number b.
        3. Fold each step's number i into each row's key, and draw one `random.uniform(key)` [] from each:
           [B, M]. Two nested `vmap` make this one vectorised call (an integer in fold_in is then a tensor).

    Edge cases: steps = 0 gives [B, 0].

    Raises:
        ValueError: if key is neither [2] nor [B, 2].

    Example:
        >>> key = random.key(0)
        >>> second_row = random.fold_in(key, 1)
        >>> third_step = random.uniform(random.fold_in(second_row, 2))
        >>> torch.equal(draw_uniforms(key, 2, 3)[1, 2], third_step)
        True
    """
    # 1. Check.
    _check_key(key, count)
    vmap, device = torch.func.vmap, key.device
    # 2. One key per row: [B, 2].
    if key.ndim == 1:
        key = vmap(random.fold_in, (None, 0))(key, torch.arange(count, device=device))

    # 3. One number for each row and step: [B, M].
    def uniform(row_key: Tensor, step: Tensor) -> Tensor:
        return random.uniform(random.fold_in(row_key, step))

    uniform_of_steps = vmap(uniform, (None, 0))
    return vmap(uniform_of_steps, (0, None))(key, torch.arange(steps, device=device))


def pad_rows(x: Tensor, rows: int) -> Tensor:
    """Pad x [B, ...] to [R, ...] with copies of its first row."""
    return torch.cat([x, x[:1].expand(rows - len(x), *x.shape[1:])])


def sample_tokens(
    logits: Tensor, uniform: Tensor, controls: Controls, seen: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Sample a token from each row of logits, and return its log-probability under the model.

    The log-probability is that of the full distribution at the temperature, before penalty and truncation:
    the losses compute the new policy's in the same way, so the two can be compared.

        ids ~ softmax(min_p(top_p(top_k(temperature(penalty(l))))))
        log-probability = l_id / T - log Σ_v exp(l_v / T),     T = 1 where the temperature is 0

    with l = logits, T = controls.temperature.

    Args:
        logits: [B, V] float.
        uniform: [B] float32 in [0, 1).
        controls: temperature [B], top_k, top_p, min_p, repetition_penalty, vocabulary; each that is None is
            skipped.
        seen: [B, V] bool, or None without a penalty.

    Returns:
        (ids [B] int64, log-probabilities [B] float32, nats).

    Steps:
        1. Logits for the log-probability: the logits in float32 divided by the temperature, in rows where it
           is 0 by 1: [B, V].
        2. Logits for sampling: again the logits in float32; set those of ids at or above the vocabulary to
           -inf.
        3. Apply, in this order, `sample.repetition_penalty` (if there is a penalty and `seen`),
           `sample.temperature`, `sample.top_k`, `sample.top_p` and `sample.min_p`: [B, V].
        4. Sample from these with `sample.sample`, and look up the ids in the logits of step 1 with
           `sample.log_probability`.

    Edge cases: temperature 0 takes the likeliest token, with the log-probability at temperature 1.

    Example:
        Of the weights 1 and 3, top_k = 1 leaves the second; its probability is still 3/4.

        >>> controls = Controls(torch.zeros(1, 1), temperature=torch.ones(1), top_k=1)
        >>> logits, uniform = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([0.1])
        >>> ids, logprobs = sample_tokens(logits, uniform, controls, None)
        >>> ids, logprobs.exp()
        (tensor([1]), tensor([0.7500]))
    """
    # 1. Logits for the log-probability: [B, V].
    temperature = controls.temperature
    scaled = logits.float() / torch.where(temperature == 0, 1.0, temperature)[:, None]
    # 2. Logits for sampling, inside the vocabulary: [B, V].
    sampling_logits = logits.float()
    if controls.vocabulary is not None:
        inside = torch.arange(sampling_logits.shape[-1], device=sampling_logits.device) < controls.vocabulary
        sampling_logits = torch.where(inside, sampling_logits, -torch.inf)
    # 3. Penalty, temperature, top-k, top-p, min-p.
    if controls.repetition_penalty is not None and seen is not None:
        sampling_logits = sample.repetition_penalty(sampling_logits, seen, controls.repetition_penalty)
    sampling_logits = sample.temperature(sampling_logits, temperature)
    for function, value in (
        (sample.top_k, controls.top_k),
        (sample.top_p, controls.top_p),
        (sample.min_p, controls.min_p),
    ):
        if value is not None:
            sampling_logits = function(sampling_logits, value)
    # 4. Ids and log-probabilities: [B].
    ids = sample.sample(sampling_logits, uniform)
    return ids, sample.log_probability(scaled, ids)


def _check_key(key: Tensor, count: int) -> None:
    """Refuse a key that is neither [2] nor [B, 2]."""
    if key.shape not in ((2,), (count, 2)):
        raise ValueError(
            f"generate: key must be [2], or [B, 2] = [{count}, 2] for one per row, got {list(key.shape)}"
        )
