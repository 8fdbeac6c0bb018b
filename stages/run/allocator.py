"""Keep freed memory for the next step, instead of returning it to the kernel after each.

A step frees its activations and the next one asks for the same again. glibc returns large blocks to the
kernel at once, which then clears every page anew: for a model of 6M parameters that is 10 to 50 thousand
page faults per step, an eighth to a fifth of its time on a CPU. The peak memory of a run does not change; the
memory that it holds between peaks does.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_BLOCK = 2**30
"""Bytes; larger blocks are still requested from the kernel and returned to it."""


def keep_freed_memory() -> bool:
    """Makes this process keep the memory that it frees, until it ends.

    A setting of the C library, for the whole process; it changes no result. `stages.run.loop.run` calls it; a
    custom loop should call it too, before the first step.

    Returns:
        Whether the setting was accepted: True with glibc (Linux), False elsewhere, where nothing is changed.

    Source: mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
