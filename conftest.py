"""What every test and doctest runs under: one torch thread, no network, one compile cache, checked signatures.

It stands at the root, not in `tests/`, because the doctests of the packages need it as well.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import inspect
import os
import shutil
import sys
import tempfile
import types
import typing
from collections.abc import Callable

# Before torch and jax are imported, and before pytest-xdist starts its workers, which inherit these.
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a peer to compare with; it must not take the memory of a GPU
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test downloads
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else its threads warn when a test forks
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of compilers beside the pool of test workers
# One folder for all workers of this session: what one compiled, the others load; nothing stale is read.
_CACHE = None if "TORCHINDUCTOR_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="inductor-")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_CACHE))

import beartype  # noqa: E402
import hypothesis  # noqa: E402
import jaxtyping  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)  # two workers on two cores otherwise fight over them

hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("same")


def pytest_unconfigure() -> None:
    """Removes the compile cache, in the process that made it."""
    if _CACHE:
        shutil.rmtree(_CACHE, ignore_errors=True)


def checked(function: types.FunctionType) -> types.FunctionType:
    """Makes a function check its annotations (jaxtyping's shapes, everything else by beartype) whenever it is called.

    jaxtyping's own import hook would do it in every call, and a compiled step would then trace beartype's generated
    code. Here Dynamo sees a constant branch to the function itself, so that `fullgraph=True` holds. The wrapper keeps
    the function's globals, by which doctest recognises that it belongs to its module.
    """
    check = jaxtyping.jaxtyped(function, typechecker=_beartype)
    is_compiling = torch.compiler.is_compiling

    def wrapper(*args, **kwargs):
        return function(*args, **kwargs) if is_compiling() else check(*args, **kwargs)

    same_globals = types.FunctionType(wrapper.__code__, function.__globals__, closure=wrapper.__closure__)
    return functools.update_wrapper(same_globals, function)


_beartype: Callable = beartype.beartype(
    # An int is a fine float, and a caller's mistake is a TypeError, as it would be without checks.
    conf=beartype.BeartypeConf(is_pep484_tower=True, violation_type=TypeError)
)


class CheckedLoader(importlib.machinery.SourceFileLoader):
    """Loads a module of `pure` and puts `checked` around every function that is defined in it."""

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        for name, value in list(vars(module).items()):
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                setattr(module, name, checked(value))


class CheckedFinder(importlib.abc.MetaPathFinder):
    """Finds what Python would find, and has `pure.*` loaded by CheckedLoader."""

    def find_spec(self, name: str, path: typing.Any = None, target: typing.Any = None) -> typing.Any:
        if not name.startswith("pure."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = CheckedLoader(spec.loader.name, spec.loader.path)
        return spec


if not any(isinstance(finder, CheckedFinder) for finder in sys.meta_path):
    sys.meta_path.insert(0, CheckedFinder())
