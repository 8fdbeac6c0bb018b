"""Stand-ins for the libraries that tests compare with, which most learners do not have.

Many test files import such a library at their top, and compare with it in a few of their tests. With a
stand-in the file can be imported; a test that uses it fails, and so is not in the table of tests (`suite`).
Stand-ins take the place of installed libraries too, so that every learner's check is the same.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import types
from typing import Any
from unittest.mock import MagicMock

PEERS = frozenset(
    (
        "bitsandbytes", "datasets", "flax", "gguf", "jax", "jaxlib", "lm_eval", "matplotlib", "opacus",
        "optax", "orbax", "peft", "pytorch_optimizer", "tensorboard", "tiktoken", "tokenizers", "torchao",
        "transformers", "trl", "vllm", "wandb",
    )
)  # fmt: skip
"""Libraries that have a stand-in."""


class StandIn(types.ModuleType):
    """A module that has every name: classes without behaviour, and mocks."""

    def __getattr__(self, name: str) -> Any:
        """Makes what is asked for.

        Raises:
            AttributeError: for the names that Python gives to modules.
        """
        if name.startswith("__"):
            raise AttributeError(name)
        value = type(name, (), {}) if name[0].isupper() else MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stand-in for each library of PEERS and for all its modules."""

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Finds a stand-in; leaves all else to the other finders."""
        if name.split(".")[0] not in PEERS:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Makes a stand-in."""
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Does nothing: a stand-in makes its names when they are asked for."""
