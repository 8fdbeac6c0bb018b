"""One step of generation: read the last token of every row, and sample the next.

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
from pure.transform.trace import kind
from pure.types import Model, Tree, identity_prepare


class Generated(NamedTuple):
    """Completions without their prompts.

    Fields:
        tokens: [B, M] int64, the completion; `pad` after its end.
        logprobs: [B, M] float32, nats: of each token under the model at that temperature (at 1 where it is
            0), before any penalty and truncation; 0 after the end.
        lengths: [B] int64, tokens written, the stop token among them.
    """

    tokens: Tensor
    logprobs: Tensor
    lengths: Tensor


class Progress(NamedTuple):
    """State of generation between two steps. A compiled step writes the next one into the same storage.

    Fields:
        cache: the model's, filled with all but the last token.
        last: [B] int64, the token to be read next.
        written: Generated, so far.
        done: [B] bool; such a row still samples, but writes nothing.
        taken: [] int64, steps so far.
        seen: [B, V] bool, tokens of prompt and completion; None without a repetition penalty.
    """

    cache: Tree
    last: Tensor
    written: Generated
    done: Tensor
    taken: Tensor
    seen: Tensor | None


class Stepper(NamedTuple):
    """The functions that generation drives, plain or compiled.

    Fields:
        prepare: (params, *, rows) -> the params of the other two.
        prefill: (cache, params, tokens [B, P]) -> cache.
        bind: (progress, params, controls, stop_tokens [n]) -> step, for as long as their shapes stay as they
            are; step: the same arguments -> progress.
    """

    prepare: Callable[..., Tree]
    prefill: Callable[..., Tree]
    bind: Callable[..., Callable[..., Progress]]


def stepper(model: Model, *, compile: bool = True, backend: str = "inductor") -> Stepper:
    """Bind a model to the steps of generation; its compiled code is reused by every later call of `generate`.

    Args:
        model: from `pure.nn.transformer.transformer`, or any other.
        compile: the step as one graph, on params arranged by `model.prepare` (a copy of them) and a cache
            written in place. Every number of rows, length of cache and choice of controls is compiled once;
            the values of params and controls are not compiled in. Prompts are read eagerly: one call hardly
            gains what compiling every length of prompt would cost.
        backend: as in `pure.transform.jit.jit`.

    Returns:
        Stepper(prepare, prefill, bind).
    """
    write = partial(step, model=model)
    make = partial(jit, write, donate=True, backend=backend, checked=False)
    read = partial(prefill, model=model)
    if not compile:
        return Stepper(identity_prepare, read, lambda *arguments: write)
    return Stepper(model.prepare, read, partial(_compiled, {}, make))


def prefill(cache: Tree, params: Tree, tokens: Tensor, *, model: Model) -> Tree:
    """Read tokens [B, P] into the cache and return it; only the last token's logits are computed."""
    return model.decode(params, tokens, cache, last=True)[1]


def step(
    progress: Progress, params: Tree, controls: Controls, stop_tokens: Tensor, *, model: Model
) -> Progress:
    """Sample one more token for every row.

    Args:
        progress: unchanged by this (a donating jit changes it).
        params: the model's.
        controls: randomness and its shaping, see `sample_tokens`.
        stop_tokens: [n] int64, ids that end a row; n may be 0.
        model: gives `decode`.

    Returns:
        The next Progress.

    Steps:
        1. Read the last token.
        2. Sample the next, with this step's column of the uniforms.
        3. Write it in the unfinished rows.
    """
    # 1. Read.
    logits, cache = model.decode(params, progress.last[:, None], progress.cache)
    # 2. Sample.
    uniform = controls.uniforms.index_select(1, progress.taken[None])[:, 0]
    ids, logprob = sample_tokens(logits[:, 0], uniform, controls, progress.seen)
    # 3. Write.
    tokens, logprobs, lengths = progress.written
    here = (torch.arange(tokens.shape[1], device=tokens.device) == progress.taken) & ~progress.done[:, None]
    written = Generated(
        torch.where(here, ids[:, None], tokens),
        torch.where(here, logprob[:, None], logprobs),
        lengths + (~progress.done).long(),
    )
    done = progress.done | (ids[:, None] == stop_tokens).any(-1)
    seen = None if progress.seen is None else progress.seen.scatter(1, ids[:, None], True)
    return Progress(cache, ids, written, done, progress.taken + 1, seen)


def _compiled(made: dict[Any, Callable], make: Callable[[], Callable], *arguments: Tree) -> Callable:
    """Return the compiled step for arguments of these kinds, from the table or new; torch checks none."""
    values, structure = tree.flatten(arguments)
    kinds = tuple(kind(x) for x in values)
    if (structure, kinds) not in made:
        made[structure, kinds] = make()
    return made[structure, kinds]
