"""One step of generation: run the model on the last token of every row, and sample the next.

A pure function of tensors with static shapes, so that it compiles to one graph that serves every length; the
loop around it is `pure/generation/generate.py`.

Shape letters: B rows, P prompt tokens, M new tokens at most, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.generation.controls import Controls, sample_tokens
from pure.transform.jit import jit
from pure.transform.trace import leaf_signature
from pure.types import Model, Tree, identity_prepare


class Generated(NamedTuple):
    """Completions without their prompts.

    Fields:
        tokens: [B, M] int64, the completion; `pad` after its end.
        logprobs: [B, M] float32, nats: log-probability of each token at the sampling temperature (at 1 for
            greedy decoding), before penalties and truncation (top-k, top-p); 0 after the end.
        lengths: [B] int64, number of tokens, including the stop token.
    """

    tokens: Tensor
    logprobs: Tensor
    lengths: Tensor


class Progress(NamedTuple):
    """State of generation between two steps. A compiled step overwrites it in place with the next state.

    Fields:
        cache: the model's, filled with all but the last token.
        last: [B] int64, the last token, which is the input of the next step.
        written: Generated, so far.
        done: [B] bool; such a row still samples, but writes nothing.
        step_count: [] int64, steps so far.
        seen: [B, V] bool, tokens of prompt and completion; None without a repetition penalty.
    """

    cache: Tree
    last: Tensor
    written: Generated
    done: Tensor
    step_count: Tensor
    seen: Tensor | None


class Stepper(NamedTuple):
    """The functions that the generation loop calls, eager or compiled.

    Fields:
        prepare: (params, *, rows) -> params in the layout that `prefill` and the steps take.
        prefill: (cache, params, tokens [B, P]) -> cache.
        bind: (progress, params, controls, stop_tokens [n]) -> the step function for arguments of these
            shapes, which maps the same arguments to the next Progress.
    """

    prepare: Callable[..., Tree]
    prefill: Callable[..., Tree]
    bind: Callable[..., Callable[..., Progress]]


def stepper(model: Model, *, compile: bool = True, backend: str = "inductor") -> Stepper:
    """Bind a model to the steps of generation; its compiled code is reused by every later call of `generate`.

    Args:
        model: from `pure.nn.transformer.transformer`, or any other.
        compile: compile the step to one graph, on a copy of the params arranged by `model.prepare` and a
            cache updated in place. Each combination of number of rows, cache length and enabled controls is
            compiled once; values of params and controls are not compiled in. Prefill runs eagerly, as
            compiling it for every prompt length would cost more than it saves.
        backend: as in `pure.transform.jit.jit`.

    Returns:
        Stepper(prepare, prefill, bind).
    """
    eager_step = partial(step, model=model)
    prefill_fn = partial(prefill, model=model)
    if not compile:
        return Stepper(identity_prepare, prefill_fn, lambda *arguments: eager_step)
    make_step = partial(jit, eager_step, donate=True, backend=backend, checked=False)
    compiled_steps: dict[Any, Callable] = {}
    return Stepper(model.prepare, prefill_fn, partial(_get_compiled_step, compiled_steps, make_step))


def prefill(cache: Tree, params: Tree, tokens: Tensor, *, model: Model) -> Tree:
    """Fill the cache with tokens [B, P] and return it; only the last token's logits are computed."""
    return model.decode(params, tokens, cache, last=True)[1]


def step(
    progress: Progress, params: Tree, controls: Controls, stop_tokens: Tensor, *, model: Model
) -> Progress:
    """Sample one more token for every row.

    Every row takes part in every step, also those that are done, so that all shapes stay constant and one
    compiled graph serves the whole generation.

        ids[b] ~ p(· | the tokens of row b so far)
        tokens[b, i] = ids[b], logprobs[b, i] = log p(ids[b] | ...), lengths[b] + 1, unless done[b]
        done[b] = done[b] or ids[b] in stop_tokens

    with i = step_count.

    Args:
        progress: unchanged by this (a donating jit changes it).
        params: the model's.
        controls: uniforms [B, M] and sampling settings, see `sample_tokens`.
        stop_tokens: [n] int64, ids that end a row; n may be 0.
        model: gives `decode(params, tokens [B, 1], cache) -> (logits [B, 1, V], cache)`.

    Returns:
        The next Progress: the new cache, the sampled ids as `last` (in all rows), and what the steps compute.

    Steps:
        1. Run `model.decode` on the last tokens, as [B, 1]: logits [B, 1, V] and the next cache.
        2. Sample ids and log-probabilities [B] with `sample_tokens`, from column `step_count` of the uniforms
           (selected with a tensor index: `step_count` is never read on the host).
        3. Write both to column `step_count` of tokens and logprobs, [B, M], in the rows that were not done
           before this step, and add 1 to the lengths of these rows.
        4. Rows that sampled a stop token are done from now on. Mark the sampled ids in a copy of `seen`, in
           all rows, unless it is None. Add 1 to `step_count`.

    Edge cases: the stop token itself is written and counted; a row that is done stays done.

    Example:
        A model in which id t is always followed by t + 1:

        >>> model = Model(*[None] * 7, decode=lambda params, tokens, cache: (params[tokens], cache))
        >>> params = torch.eye(4).roll(1, 1).log()
        >>> zeros = torch.zeros(1, 2, dtype=torch.int64)
        >>> written = Generated(zeros, torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
        >>> progress = Progress({}, torch.tensor([1]), written, torch.tensor([False]), torch.tensor(0), None)
        >>> controls = Controls(torch.full((1, 2), 0.5), temperature=torch.ones(1))
        >>> progress = step(progress, params, controls, torch.tensor([2]), model=model)
        >>> progress.written.tokens, progress.written.lengths, progress.done
        (tensor([[2, 0]]), tensor([1]), tensor([True]))
    """
    # 1. Logits [B, 1, V].
    logits, cache = model.decode(params, progress.last[:, None], progress.cache)
    # 2. Ids and log-probabilities [B].
    uniform = controls.uniforms.index_select(1, progress.step_count[None])[:, 0]
    ids, logprob = sample_tokens(logits[:, 0], uniform, controls, progress.seen)
    # 3. Write to column step_count of unfinished rows.
    tokens, logprobs, lengths = progress.written
    is_this_step = torch.arange(tokens.shape[1], device=tokens.device) == progress.step_count
    write_mask = is_this_step & ~progress.done[:, None]
    written = Generated(
        torch.where(write_mask, ids[:, None], tokens),
        torch.where(write_mask, logprob[:, None], logprobs),
        lengths + (~progress.done).long(),
    )
    # 4. Finished rows, seen tokens, and the count.
    done = progress.done | (ids[:, None] == stop_tokens).any(-1)
    seen = None if progress.seen is None else progress.seen.scatter(1, ids[:, None], True)
    return Progress(cache, ids, written, done, progress.step_count + 1, seen)


def _get_compiled_step(
    compiled_steps: dict[Any, Callable], make_step: Callable[[], Callable], *arguments: Tree
) -> Callable:
    """Return the compiled step for this structure, these shapes and dtypes; compile it on first use.

    The lookup replaces torch's guards, which are off (`checked=False`).
    """
    values, structure = tree.flatten(arguments)
    signature = (structure, tuple(leaf_signature(x) for x in values))
    if signature not in compiled_steps:
        compiled_steps[signature] = make_step()
    return compiled_steps[signature]
