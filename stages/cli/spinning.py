"""Waiting threads of OpenMP: a short spin before they sleep."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping

SPIN_COUNT = "10000"
"""Looks before a waiting thread sleeps, some tens of microseconds.

GNU OpenMP's own number is 300,000 where each thread has a processor: beside another program the spinning
threads take the time of those that they wait for. On an idle machine both are equally fast.
"""


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Sets GOMP_SPINCOUNT, which OpenMP reads when torch is imported, unless the user said how long to spin.

    Args:
        environment: of this process and of those that it starts.

    Examples:
        >>> environment = {"OMP_WAIT_POLICY": "PASSIVE"}
        >>> limit_spinning(environment)
        >>> environment
        {'OMP_WAIT_POLICY': 'PASSIVE'}
    """
    if "torch" not in sys.modules and not environment.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        environment["GOMP_SPINCOUNT"] = SPIN_COUNT
