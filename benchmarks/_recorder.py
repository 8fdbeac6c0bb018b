"""Record the collectives and the memory of one of n processes, without the others and without computing.

torch's process group "fake" has any size and moves nothing; tensors of the device "meta", and fake tensors, have
shapes and no data. The program that runs is the real one, and every collective that it calls passes through a
dispatch mode, which notes its bytes.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER = "all-reduce", "all-gather", "reduce-scatter"
KINDS: Mapping[str, str] = {
    "allreduce_": ALL_REDUCE,
    "allreduce_coalesced_": ALL_REDUCE,
    "all_reduce": ALL_REDUCE,
    "all_reduce_": ALL_REDUCE,
    "all_reduce_coalesced": ALL_REDUCE,
    "allgather_": ALL_GATHER,
    "_allgather_base_": ALL_GATHER,
    "allgather_into_tensor_coalesced_": ALL_GATHER,
    "all_gather_into_tensor": ALL_GATHER,
    "all_gather_into_tensor_out": ALL_GATHER,
    "all_gather_into_tensor_coalesced": ALL_GATHER,
    "reduce_scatter_": REDUCE_SCATTER,
    "_reduce_scatter_base_": REDUCE_SCATTER,
    "reduce_scatter_tensor_coalesced_": REDUCE_SCATTER,
    "reduce_scatter_tensor": REDUCE_SCATTER,
    "reduce_scatter_tensor_coalesced": REDUCE_SCATTER,
}
"""Name of torch's operator -> kind. Both its namespaces, c10d and _c10d_functional."""
SILENT = ("wait_tensor", "_wrap_tensor_autograd", "barrier", "monitored_barrier_")
"""Operators of these namespaces that move no data."""


class Collective(NamedTuple):
    """One collective of this process.

    Fields:
        kind: ALL_REDUCE, ALL_GATHER or REDUCE_SCATTER.
        size: n, processes of its group.
        bytes: of the tensor that is reduced, of that which all parts make up, or of that which is scattered.
    """

    kind: str
    size: int
    bytes: int

    @property
    def sent(self) -> float:
        """Bytes that each process sends in a ring: 2 (n-1)/n of an all-reduce, (n-1)/n of the others."""
        rounds = 2 if self.kind == ALL_REDUCE else 1
        return rounds * (self.size - 1) / self.size * self.bytes


class Recorder(TorchDispatchMode):
    """Notes collectives, and the bytes of storages that are allocated inside the block.

    Fields:
        collectives: in their order.
        current, peak: bytes alive, and the most of them.
        marked: the peak when `mark` was called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.collectives: list[Collective] = []
        self.alive: dict[int, int] = {}
        self.current = self.peak = self.marked = 0
        self.resize: Any = None
        self.data_ptr: Any = None

    def __enter__(self) -> Recorder:
        storage: Any = torch.UntypedStorage
        # FSDP2 frees and allocates whole params by the size of their storage, without an operator.
        self.resize, storage.resize_ = storage.resize_, self.resize_hook()
        # `pure.parallel.layers` tells leaves apart by address, which tensors without data do not have.
        self.data_ptr, storage.data_ptr = storage.data_ptr, self.data_ptr_hook()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        storage: Any = torch.UntypedStorage
        storage.resize_, storage.data_ptr = self.resize, self.data_ptr
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if any(issubclass(x, DTensor) for x in types):
            return NotImplemented  # so that its operators, on its local tensor, come here
        if func.namespace in ("c10d", "_c10d_functional"):
            self.note(func, args)
        inputs = {_storage_id(x) for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (key := _storage_id(x)) not in self.alive and key not in inputs:
                storage = x.untyped_storage()
                self.count(key, storage.nbytes())
                weakref.finalize(storage, self.free, key)
        return out

    def note(self, func: Any, args: tuple) -> None:
        """Notes a collective.

        Raises:
            ValueError: for one that is not in KINDS, whose bytes would be missed.
        """
        name = func.__name__.split(".")[0]
        if name in SILENT:
            return
        if name not in KINDS:
            raise ValueError(f"recorder: no rule for the bytes of {func}; add it to KINDS")
        kind = KINDS[name]
        tensors = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
        size = _group_size(args)
        total = sum(x.numel() * x.element_size() for x in tensors)
        if kind != ALL_REDUCE:
            # Own part and whole, 1/n and 1, are both arguments; functional operators have the own part only.
            whole = total * size / (size + 1) if func.namespace == "c10d" else total
            whole *= size if func.namespace != "c10d" and kind == ALL_GATHER else 1
            total = round(whole)
        self.collectives.append(Collective(kind, size, total))

    def mark(self) -> None:
        """Keeps the peak until now."""
        self.marked = self.peak

    def count(self, key: int, size: int) -> None:
        """Counts a storage, or its new size."""
        self.current += size - self.alive.get(key, 0)
        self.alive[key] = size
        self.peak = max(self.peak, self.current)

    def free(self, key: int) -> None:
        """Subtracts a storage that was freed."""
        self.current -= self.alive.pop(key, 0)

    def resize_hook(self) -> Any:
        """Return the function that takes the place of UntypedStorage.resize_."""

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            result = self.resize(storage, size)
            if storage._cdata in self.alive:
                self.count(storage._cdata, size)
            return result

        return resize

    def data_ptr_hook(self) -> Any:
        """Return the function that takes the place of UntypedStorage.data_ptr."""

        def data_ptr(storage: torch.UntypedStorage) -> int:
            return storage._cdata if storage.device.type == "meta" else self.data_ptr(storage)

        return data_ptr

    def kinds(self) -> Counter[str]:
        """Return the number of collectives of each kind."""
        return Counter(x.kind for x in self.collectives)

    def sent(self) -> float:
        """Return the bytes that the process sends."""
        return sum(x.sent for x in self.collectives)


@contextmanager
def pretended(size: int) -> Iterator[DeviceMesh]:
    """Make this process the first of `size` that do not exist; yields their mesh."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield init_device_mesh("cpu", (size,))
    finally:
        dist.destroy_process_group()


def _group_size(args: tuple) -> int:
    """The processes of a collective: an operator gets its group as an object or by name."""
    for x in args:
        if isinstance(x, torch.ScriptObject) and x._type().qualified_name().endswith("ProcessGroup"):
            return dist.ProcessGroup.unbox(x).size()
    names = [x for x in args if isinstance(x, str)]
    return dist.distributed_c10d._resolve_process_group(names[-1]).size()


def _storage_id(x: Tensor) -> int:
    """The address of the C++ object of the storage, which fake tensors have as well."""
    return x.untyped_storage()._cdata
