"""Inventories for intersphinx, written at build: names of Python and torch that signatures mention, without network.

An inventory of a whole project is a file on the network, and large. This project's signatures mention few names.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple


class Project(NamedTuple):
    """Documentation of another project.

    Fields:
        address: where it is.
        pages: page -> names on it that signatures mention; each has an anchor of its own name.
    """

    address: str
    pages: Mapping[str, Sequence[str]]


PYTHON = Project(
    "https://docs.python.org/3",
    {
        "library/functions.html": ("int", "float", "bool", "object", "type", "range", "complex"),
        "library/stdtypes.html": ("str", "bytes", "bytearray", "dict", "list", "tuple", "set", "frozenset"),
        "library/constants.html": ("None",),
        "library/pathlib.html": ("pathlib.Path",),
        "library/typing.html": ("typing.Any", "typing.NamedTuple", "typing.Literal", "typing.Protocol"),
        "library/types.html": ("types.MappingProxyType", "types.ModuleType"),
        "library/collections.abc.html": tuple(
            f"collections.abc.{name}"
            for name in ("Callable", "Iterable", "Iterator", "Mapping", "Sequence", "Set", "Collection")
        ),
        "library/exceptions.html": (
            "Exception",
            "ValueError",
            "TypeError",
            "KeyError",
            "OSError",
            "RuntimeError",
            "FileNotFoundError",
            "FileExistsError",
            "ImportError",
            "SystemExit",
            "TimeoutError",
            "NotImplementedError",
        ),
    },
)
TORCH = Project(
    "https://docs.pytorch.org/docs/stable",
    {
        "tensors.html": ("torch.Tensor",),
        "tensor_attributes.html": ("torch.dtype", "torch.device"),
        "generated/torch.nn.Module.html": ("torch.nn.Module",),
        "distributed.html": ("torch.distributed.device_mesh.DeviceMesh", "torch.distributed.ProcessGroup"),
    },
)
PROJECTS: Mapping[str, Project] = MappingProxyType({"python": PYTHON, "torch": TORCH})


def write_inventories(folder: Path) -> dict[str, tuple[str, str]]:
    """Write an inventory for each project, in the second version of Sphinx's format; return intersphinx_mapping."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for name, project in PROJECTS.items():
        path = folder / f"{name}.inv"
        path.write_bytes(inventory(name, project))
        mapping[name] = (project.address, str(path))
    return mapping


def inventory(name: str, project: Project) -> bytes:
    """Return the bytes of an inventory."""
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    lines = [f"{each} py:class 1 {page}#$ -\n" for page, names in project.pages.items() for each in names]
    return head.encode() + zlib.compress("".join(lines).encode())
