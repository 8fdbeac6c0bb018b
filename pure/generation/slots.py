"""Slots: rows of one batch that begin and end independently of each other (continuous batching).

`pure.generation.generate` keeps a batch until its last row is done. A server cannot wait for that: here a row
that is done leaves its slot, and another row's cache is copied into it, while the others go on. All shapes
stay constant, so that the numbers of a row never depend on the rows beside it.

Shape letters: R slots, S positions of the cache, V vocabulary.

Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", 2022.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pure import tree
from pure.types import Model, Tree


class Slots(NamedTuple):
    """State of R slots between two steps. A donating jit overwrites it with the next state.

    Fields:
        cache: the model's, with R rows of S positions.
        last: [R] int64, the input of the next step; any id in a free slot.
        logits: [R, V], of the token after `last`, from the step before; any numbers in a free slot.
    """

    cache: Tree
    last: Tensor
    logits: Tensor


class Overwritten(Tensor):
    """A tensor whose storage its only owner gives away: `index_put` writes into it, and returns it.

    So a cache that the next step alone reads is not copied at every step. Every other function takes it for a
    plain tensor.

    Example:
        >>> x = torch.zeros(3).as_subclass(Overwritten)
        >>> x.index_put((torch.tensor([1]),), torch.ones(1)) is x, x.tolist(), type(x + 1).__name__
        (True, [0.0, 1.0, 0.0], 'Tensor')
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def index_put(self, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
        """Writes values at indices, as `Tensor.index_put_`, and returns this tensor."""
        return self.index_put_(indices, values, accumulate)


def give_away(slots: Slots) -> Slots:
    """Let `decode_slots` write into the cache of some slots, as a donating jit does.

    Args:
        slots: nobody else may read their cache any more.

    Returns:
        The same slots, in the same storage.
    """
    cache = tree.map(lambda x: x.as_subclass(Overwritten) if x.is_floating_point() else x, slots.cache)
    return slots._replace(cache=cache)


def empty_slots(
    model: Model, rows: int, length: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Slots:
    """Allocate free slots.

    Args:
        model: gives `cache` and `config`.
        rows: R.
        length: S, positions of each slot, at most max_position_embeddings.
        dtype: of the cache and of the logits, that of the params.
        device: that of the params.

    Returns:
        Slots of zeros.
    """
    return Slots(
        model.cache(rows, length, dtype, device),
        torch.zeros(rows, dtype=torch.int64, device=device),
        torch.zeros(rows, model.config.vocab_size, dtype=dtype, device=device),
    )


def decode_slots(slots: Slots, params: Tree, *, model: Model) -> Slots:
    """Compute the logits of the next token in every slot, free ones included.

        logits[r] = model(tokens of slot r up to and with last[r])

    Args:
        slots: unchanged, unless they were given away (`give_away`) or a donating jit runs this.
        params: the model's.
        model: gives `decode`.

    Returns:
        Slots with the new logits, and a cache that holds `last`, one position longer. `last` is the same.

    Edge cases: the caller keeps the length of a free slot below S; its logits mean nothing.

    Example:
        A model in which id t is always followed by t + 1:

        >>> model = Model(*[None] * 7, decode=lambda params, tokens, cache: (params[tokens], cache))
        >>> slots = Slots({}, torch.tensor([1, 2]), torch.zeros(2, 4))
        >>> decode_slots(slots, torch.eye(4).roll(1, 1), model=model).logits.argmax(-1)
        tensor([2, 3])
    """
    logits, cache = model.decode(params, slots.last[:, None], slots.cache)
    return Slots(cache, slots.last, logits[:, 0])


def lengthen_cache(cache: Tree, room: Tree) -> Tree:
    """Pad every tensor of a cache with zeros to the shape of a longer one.

    Args:
        cache: the model's.
        room: a cache of the same rows with more positions; only its shapes are read ("meta" will do).

    Returns:
        A cache with the numbers of `cache`; what follows them is 0.
    """
    return tree.map(_pad_to_shape, cache, room)


def _pad_to_shape(x: Tensor, room: Tensor) -> Tensor:
    """Pad x with zeros to the shape of `room`; F.pad takes pairs (before, after), the last axis first."""
    missing = [new - old for new, old in zip(room.shape, x.shape, strict=True)]
    return F.pad(x, [n for side in reversed(missing) for n in (0, side)])
