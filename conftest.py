"""What every test and doctest runs under: one torch thread, no network, one compile cache, checked
signatures.

It stands at the root, not in `tests/`, because the doctests of the packages need it as well.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

# Before torch and jax are imported, and before pytest-xdist starts its workers, which inherit these.
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a peer to compare with; it must not take the memory of a GPU
# With AVX512-FP16 XLA computes float16 in float16, elsewhere in float32: one arithmetic on every machine.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_max_isa=AVX2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test downloads
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # of the processes that tests start, beside those of another worker
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else its threads warn when a test forks
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("INTRO2LLM_REPORT", "0")  # a page for each of hundreds of runs would take minutes
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault(
    "TORCHINDUCTOR_COMPILE_THREADS", "1"
)  # no pool of compilers beside the pool of test workers
# What the processor says of its instructions is believed: else each session compiles twelve programs to find out.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
# One folder for all workers of this session: what one compiled, the others load; nothing stale is read.
CACHE = None if "TORCHINDUCTOR_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="inductor-")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE))

# Until all modules are imported: a million objects that stay would be searched twenty times.
gc.disable()

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from tests import signatures  # noqa: E402

torch.set_num_threads(1)  # two workers on two cores otherwise fight over them
signatures.install()
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("same")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Turns off what costs time and changes no result.

    The garbage collector sees only what tests make, not what was imported, and runs seldom, as it calls hooks of
    JAX and Hypothesis each time. torch times the guards of each function that it compiled, for a log, after
    flushing the processor's caches.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
    guards = sys.modules.get("torch._dynamo.guards")
    if hasattr(guards, "profile_guard_manager"):
        guards.profile_guard_manager = lambda *_: 0.0


def pytest_unconfigure() -> None:
    """Removes the compile cache, in the process that made it."""
    if CACHE is not None:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(scope="module")
def quick_xla() -> Iterator[None]:
    """Lets XLA leave out its expensive passes and fused loops in a test file: it compiles in a third of the time.

    The numbers then differ from those of an optimised program in their last bits.
    """
    import jax
    from jax._src import compiler

    usual = compiler.get_compile_options

    def quick(*args: Any, **options: Any) -> Any:
        made = usual(*args, **options)
        overrides = {"xla_cpu_use_fusion_emitters": False} | dict(made.env_option_overrides)
        made.env_option_overrides = list(overrides.items())
        return made

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    compiler.get_compile_options = quick
    yield
    compiler.get_compile_options = usual
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True, scope="module")
def _compiled_alone() -> Iterator[None]:
    """Forgets what a test file compiled.

    Else Dynamo takes the sizes of the next file's tensors for variables, where both compile a function of one code
    object, such as what `torch.func.grad` returns: such a compilation takes ten times as long.
    """
    yield
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.convert_frame.input_codes.seen:
        dynamo.reset()


@pytest.fixture(autouse=True, scope="session")
def _examples_know_torch(doctest_namespace: dict) -> None:
    """The examples of every docstring read as if after `import torch`."""
    doctest_namespace["torch"] = torch
