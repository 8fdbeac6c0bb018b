"""How long a waiting OpenMP thread should spin: a training step alone, and beside other programs.

    python benchmarks/spinning.py [--steps N] [--programs N]

Each setting is a process of its own, in turn; "step" is one eager step of a small model on two threads, "small" a
product of one row, as in generation. A setting that does not end within a minute is stopped, and the line says so.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType

SETTINGS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "GNU OpenMP's own": {},
        "GOMP_SPINCOUNT=10000 (intro2llm's)": {"GOMP_SPINCOUNT": "10000"},
        "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    }
)
ENDLESS = "while True: pass"
LIMIT = 60.0
"""Seconds after which a setting is stopped."""


def main() -> None:
    """Print the times of every setting, alone and beside programs that never wait."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument(
        "--programs", type=int, default=2, help="programs beside it, each with one busy thread"
    )
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(measure(options.steps))
        return
    print("nothing beside it")
    print_settings(options.steps)
    print(f"{options.programs} busy programs beside it")
    others = [subprocess.Popen([sys.executable, "-c", ENDLESS]) for _ in range(options.programs)]
    try:
        print_settings(options.steps)
    finally:
        for other in others:
            other.kill()
            other.wait()


def print_settings(steps: int) -> None:
    """Print a line for each setting."""
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))
    }
    command = [sys.executable, __file__, "--measure", "--steps", str(steps)]
    for name, setting in SETTINGS.items():
        try:
            line = subprocess.run(
                command,
                env={**inherited, **setting},
                check=True,
                timeout=LIMIT,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout.strip()
        except subprocess.TimeoutExpired:
            line = f"not done after {LIMIT:.0f} s"
        print(f"  {name:36} {line}", flush=True)


def measure(steps: int) -> str:
    """Time steps of training and small products on two threads."""
    import torch

    from pure import optim, random
    from pure.config import ModelConfig
    from pure.nn.transformer import transformer
    from stages.pretrain import pretrain

    torch.set_num_threads(2)
    stage = pretrain(transformer(ModelConfig(vocab_size=4096, hidden_size=256)), optim.adamw(1e-3))
    tokens = torch.zeros(8, 256, dtype=torch.long)
    batch = {"tokens": tokens, "labels": tokens}
    state = stage.step(stage.init(random.key(0)), batch)
    start = time.perf_counter()
    for _ in range(steps):
        state = stage.step(state, batch)
    step = (time.perf_counter() - start) / steps
    row, weight, products = torch.ones(1, 768), torch.ones(768, 2048), 200 * steps
    start = time.perf_counter()
    for _ in range(products):
        torch.relu(row @ weight)
    small = (time.perf_counter() - start) / products
    return f"step {1e3 * step:7.0f} ms   small {1e6 * small:7.0f} us"


if __name__ == "__main__":
    main()
