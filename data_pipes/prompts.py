"""The pipe of prompts for online reinforcement learning.

Shape letters: B prompts in a batch, R prompts in all, P longest prompt in tokens, n tokens of one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from data_pipes.chat.chat import Encoded
from data_pipes.ragged import Ragged, concatenate
from data_pipes.table import TablePipe, table_pipe


def prompt_pipe(
    prompts: Sequence[np.ndarray],
    *,
    batch_size: int,
    length: int,
    key: Any,
    epochs: int = 1,
    shuffle: bool = True,
    truncate: Literal["left"] | None = None,
) -> TablePipe:
    """Builds the pipe of prompts, reshuffled each epoch; every batch is full.

    A padding row would cost a full generation, so batches are always full: the last one is completed with
    the first prompts of a further epoch.

    Args:
        prompts: token ids of each prompt, [n] integers, from `encode_prompts`.
        batch_size: B, prompts.
        length: P, largest number of tokens in a prompt.
        key: a seed or a key [2] uint32; None only with shuffle=False.
        epochs: passes through the prompts; the last batch may add the first prompts of a further one.
        shuffle: False keeps their order.
        truncate: None refuses longer prompts, "left" keeps their last P tokens.

    Returns:
        A sequence of ceil(epochs R / B) batches: "prompts" [B, P] int64, padded on the right with 0;
        "lengths" [B] int64, tokens; "row" [B] int64, the prompt's index in `prompts`. `truncated` counts
        the prompts that were cut.

    Raises:
        ValueError: if a prompt is empty, or too long without truncate="left"; if there are no prompts; or if
            a size is below 1.
        TypeError: if the key is missing.

    Example:
        >>> prompts = [np.array([5, 6]), np.array([7])]
        >>> pipe = prompt_pipe(prompts, batch_size=3, length=2, key=None, shuffle=False)
        >>> pipe[0]["prompts"].tolist(), pipe[0]["lengths"].tolist(), pipe[0]["row"].tolist()
        ([[5, 6], [7, 0], [5, 6]], [2, 1, 2], [0, 1, 0])
    """
    if truncate not in (None, "left"):
        raise ValueError(f"prompt_pipe: truncate must be None or 'left', got {truncate!r}")
    sizes = np.fromiter(map(len, prompts), np.int64, len(prompts))
    for number, size in enumerate(sizes.tolist()):
        if size == 0:
            raise ValueError(
                f"prompt_pipe: prompt {number} is empty; give at least one token, such as the bos token"
            )
        if size > length > 0 and truncate is None:
            raise ValueError(
                f"prompt_pipe: prompt {number} has {size} tokens, and length is {length}; pass "
                f"length={sizes.max()}, or truncate='left' to keep the end of longer prompts"
            )
    fitted = [np.asarray(prompt)[-length:] for prompt in prompts] if length > 0 else []
    table = concatenate([Encoded(ids, np.zeros(len(ids), bool)) for ids in fitted], "prompt_pipe")
    return table_pipe(
        table,
        partial(take, length=length),
        rows=len(fitted),
        batch_size=batch_size,
        key=key,
        epochs=epochs,
        shuffle=shuffle,
        about={"pipe": "prompt", "length": length, "truncate": truncate},
        wrap=True,
        truncated=int((sizes > length).sum()),
    )


def take(table: Ragged, rows: np.ndarray, *, length: int) -> dict[str, np.ndarray]:
    """Gathers prompts from the table into a padded batch.

    Args:
        table: all prompts.
        rows: [B] int64, indices of prompts.
        length: P.

    Returns:
        "prompts" [B, P] int64, "lengths" [B] int64, "row" [B] int64.
    """
    lengths = np.diff(table.starts)[rows]
    prompts = np.zeros((len(rows), length), np.int64)
    for batch_position, row in enumerate(rows.tolist()):
        ids = table.tokens[table.starts[row] : table.starts[row + 1]]
        prompts[batch_position, : len(ids)] = ids
    return {"prompts": prompts, "lengths": lengths, "row": rows.copy()}
