"""Describe a run as a flat dict of names and literals: runs with equal fingerprints take the same steps.

A stage is functions with everything they use bound into them, so that the stage itself describes its
computation: by the functions' names, and the contents of every `functools.partial`, closure, NamedTuple and
dataclass, down to numbers and tensors. A checkpoint keeps this dict, and resuming with another learning rate,
model, tokenizer or corpus is refused with the names of the entries that differ.

The names are those of functions and modules. When some of them change, `NAMES_VERSION` changes with them, and
checkpoints of earlier versions are refused as a whole instead of by a list of names.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipes.digest import hash_bytes, short_digest
from pure.nn.scalar import ScalarModel, scalar_model
from pure.parallel.group import Group
from pure.parallel.rows import whole_leaf
from pure.serial.writer import memory, name_of
from pure.types import Model
from stages.stage import Stage

NAMES, NAMES_VERSION = "version of the names", "4"
"""Entry of a run's fingerprint: the version of the names of functions and fields in all other entries."""

MANY = 32
"""A dict, list or tuple with more entries than this (a vocabulary, frozen weights) becomes one digest."""
DERIVED = ("compile", "elementwise")
"""Names of arguments that say how a function is run, or follow from others (a property of the optimizer)."""

_SHORT = 80  # maximum characters of a literal that is written out
_WHOLE = 1 << 30  # maximum bytes of a memory-mapped file that is hashed whole
_SAMPLES, _SAMPLE = 1024, 1 << 16  # blocks hashed of a larger file, and bytes of each
_LITERALS = (bool, int, float, complex, str, bytes, type(None), type(...), range, slice)
_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format, np.dtype, np.generic, os.PathLike)

Flat = dict[str, str]
Seen = dict[int, tuple[Any, Flat | None]]


def fingerprint(
    stage: Any, pipe: Any = None, tokenizer: Any = None, parts: Sequence[tuple[Tensor, Tensor]] = ()
) -> dict[str, str]:
    """Describes a run for its checkpoints.

    Resuming with one number changed gives a run that is neither the old one nor the new one, and nobody
    notices. With this dict in the checkpoint, `load` names the number.

    Args:
        stage, pipe, tokenizer, parts: as in `describe`.

    Returns:
        The entries of `describe`, and the version of their names.
    """
    return {NAMES: NAMES_VERSION, **describe(stage, pipe, tokenizer, parts)}


def describe(
    stage: Any, pipe: Any = None, tokenizer: Any = None, parts: Sequence[tuple[Tensor, Tensor]] = ()
) -> dict[str, str]:
    """Describes a run by everything that its stage, pipe and tokenizer are made of.

    Args:
        stage: a Stage, or any function, partial, NamedTuple or dataclass.
        pipe: the run's data; entries are named "pipe. ...".
        tokenizer: the run's tokenizer; entries are named "tokenizer. ...". Of a Tokenizer only the spec is
            described.
        parts: tensors of the stage that hold this process's part of a leaf, each with the whole leaf, which
            is described in its place.

    Returns:
        {path: literal or digest}, the same in every process that builds the same run (never an address or a
        hash seed). Paths are the names of fields, arguments and closure variables:
        "optimizer.transforms.2.learning_rate".

    Entries of each kind of object:
        number, str, dtype, ...: its `repr`, or a digest if that is long. A tensor or array: dtype, shape and
            sha256; up to four numbers are written out.
        module-level function or class: its qualified name. Another function: its name, a lambda's code, and
            the variables in its closure. A partial: the function and its arguments, by parameter names.
            Arguments named in DERIVED are left out: compiled or not, the run is the same. A function that is
        computed by a group of processes is described as the function alone, and a model as the plain one.
        NamedTuple, dataclass: type and fields; of a Stage only init and step, as the other fields bind the
            same objects. Fields that are functions (a pair such as init and update) share one name space, so
            that an argument of both is one entry; where they differ, each has an entry under its field's
            name.
        dict, list, tuple, set: entries, or the `repr` of a short list of literals; more than 32 make one
            digest.
        object with a str field `digest` (a token store): the digest. Object with a method `fingerprint`: its
            result.
        any other object: its class and attributes.
        An entry that repeats a shorter one (same end of the path, same value) is left out.

    Edge cases: of a memory-mapped file larger than 1 GiB, 1,024 blocks are hashed; the literal says so.

    Raises:
        TypeError: for an object without fields or attributes; the message has its path and the fix.

    Example:
        >>> from functools import partial
        >>> describe(partial(max, key=abs), pipe=[1, 2])
        {'': 'builtins.max', 'key': 'builtins.abs', 'pipe': '[1, 2]'}
    """
    seen: Seen = {id(part): (part, {"": str(_literal(whole))}) for part, whole in parts}
    things = {"": stage, "pipe": pipe, "tokenizer": getattr(tokenizer, "spec", tokenizer)}
    flat: Flat = {}
    for name, part in things.items():
        if name == "" or part is not None:
            flat |= _prefix(name, _visit(part, name or type(stage).__name__, seen))
    return {path: text for path, text in flat.items() if all(flat.get(end) != text for end in _ends(path))}


def _ends(path: str) -> list[str]:
    """The shorter paths at the end of a path: "a.b.c" -> ["b.c", "c"]."""
    return [path[i + 1 :] for i, letter in enumerate(path) if letter == "."]


def _visit(thing: Any, path: str, seen: Seen) -> Flat:
    """Entries of one object, relative to it ("" is the object itself); `path` is for messages."""
    if id(thing) in seen:
        return seen[id(thing)][1] or {"": "itself"}
    seen[id(thing)] = (thing, None)  # kept alive, so that no other object gets its id
    flat = _entries(thing, functools.partial(_child, path, seen), path)
    seen[id(thing)] = (thing, flat)
    return flat


def _child(path: str, seen: Seen, name: str, thing: Any) -> Flat:
    """Entries of a part, under its name."""
    return _prefix(name, _visit(thing, f"{path}.{name}", seen))


def _entries(thing: Any, child: Callable[[str, Any], Flat], path: str) -> Flat:
    """Entries of an object by its kind."""
    if (literal := _literal(thing)) is not None:
        return {"": literal}
    if callable(getattr(thing, "fingerprint", None)) and not isinstance(thing, type):
        return {"": f"{_name(type(thing))} {thing.fingerprint()}"}
    if isinstance(thing, functools.partial):
        return _partial(thing, child, path)
    if callable(thing) and (entries := _function(thing, child)) is not None:
        return entries
    if isinstance(thing, Mapping | list | tuple | set | frozenset) and not hasattr(thing, "_fields"):
        return _container(thing, child)
    return _record(thing, child, path)


def _literal(thing: Any) -> str | None:
    """An object in one line; None if its parts need entries of their own."""
    if isinstance(thing, Tensor):
        return _numbers(
            name_of(thing.dtype), thing.shape, lambda: thing.tolist(), lambda: _digest_tensor(thing)
        )
    if isinstance(thing, np.ndarray):
        return _numbers(str(thing.dtype), thing.shape, thing.tolist, lambda: _digest_array(thing))
    if isinstance(thing, enum.Enum):
        return f"{_name(type(thing))}.{thing.name}"
    if isinstance(thing, _LITERALS):
        text = repr(thing)
        if len(text) <= _SHORT:
            return text
        return f"{type(thing).__name__} of {len(text)} letters, {_digest(text.encode())}"
    if isinstance(thing, _NAMED):
        return str(thing)
    if hasattr(thing, "pattern") and hasattr(thing, "flags"):  # a compiled regular expression
        return f"{thing.pattern!r} flags {int(thing.flags)}"
    return None


def _numbers(dtype: str, shape: Any, values: Callable[[], Any], data: Callable[[], str]) -> str:
    """A tensor or array in one line."""
    size = int(np.prod(shape, dtype=object))
    return f"{values()} {dtype}" if size <= 4 else f"{dtype}{list(shape)} {data()}"


def _digest_tensor(tensor: Tensor) -> str:
    """Digest of a tensor's bytes."""
    tensor = whole_leaf(tensor.detach())  # one that is cut into rows is gathered
    return _digest(memory(tensor.resolve_conj().resolve_neg().cpu().contiguous()))


def _digest_array(array: np.ndarray) -> str:
    """Digest of an array; a large memory-mapped file is sampled, as reading all of it would take minutes."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if not isinstance(array, np.memmap) or len(data) <= _WHOLE:
        return _digest(data.data)
    starts = np.linspace(0, len(data) - _SAMPLE, _SAMPLES).astype(np.int64)
    return _digest(b"".join(data[start : start + _SAMPLE].tobytes() for start in starts)) + " (sampled)"


def _partial(thing: functools.partial, child: Callable[[str, Any], Flat], path: str) -> Flat:
    """A partial: its function, and its arguments by name."""
    try:
        names = [
            p.name for p in inspect.signature(thing.func).parameters.values() if p.kind < p.VAR_POSITIONAL
        ]
    except (TypeError, ValueError):
        names = []
    names += [f"argument{i}" for i in range(len(names), len(thing.args))]
    bound = {**dict(zip(names, thing.args, strict=False)), **thing.keywords}
    for name in DERIVED:
        bound.pop(name, None)
    groups = [name for name, value in bound.items() if isinstance(value, Group)]
    if groups and thing.args and callable(thing.args[0]):  # computed by a group: the same function
        return child("", thing.args[0])
    for name in groups:
        del bound[name]
    flat = child("", thing.func)
    for name, value in bound.items():
        flat = {k: v for k, v in flat.items() if k.split(".")[0] != name} | child(name, value)
    return flat


def _function(thing: Any, child: Callable[[str, Any], Flat]) -> Flat | None:
    """A function or class: its qualified name; if it cannot be imported by that, also its closure."""
    inner = getattr(thing, "_torchdynamo_orig_callable", None) or getattr(thing, "_orig_mod", None)
    if inner is not None:  # torch.compile's wrapper computes the same
        return child("", inner)
    if _named_globally(thing):
        return {"": _name(thing)}
    if isinstance(thing, types.MethodType):
        return {"": _name(thing.__func__)} | child("self", thing.__self__)
    if isinstance(thing, types.FunctionType):
        code = f" {_code(thing.__code__)}" if thing.__name__ == "<lambda>" else ""
        flat = {"": _name(thing) + code}
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
            flat |= child(name, _contents(cell))
        return flat
    if isinstance(thing, types.BuiltinFunctionType):
        owner = thing.__self__
        return {"": _name(thing)} | ({} if owner is None or inspect.ismodule(owner) else child("self", owner))
    if wrapped := getattr(thing, "__wrapped__", None):
        return child("", wrapped)
    return None


def _container(thing: Any, child: Callable[[str, Any], Flat]) -> Flat:
    """A dict, list, tuple or set; if it has many entries, one digest of them."""
    if isinstance(thing, Mapping):
        entries = [(str(key), value) for key, value in thing.items()]
    elif isinstance(thing, set | frozenset):
        texts = sorted(repr(sorted(child("", value).items())) for value in thing)
        entries = [(str(i), value) for i, value in enumerate(texts)]
    else:
        entries = [(str(i), value) for i, value in enumerate(thing)]
    kind = type(thing).__name__
    if _plain(thing):
        if isinstance(thing, list | tuple) and len(text := repr(thing)) <= _SHORT:
            return {"": text}
        if len(entries) > MANY:
            return {"": f"{kind} of {len(entries)}, {_digest(repr(entries).encode())}"}
    flat = {"": kind}
    for name, value in entries:
        flat |= child(name, value)
    if len(flat) - 1 <= MANY:
        return flat
    return {"": f"{kind} of {len(entries)}, {_digest(repr(sorted(flat.items())).encode())}"}


def _plain(thing: Any, depth: int = 3) -> bool:
    """Tells whether a container holds only literals (and tuples of them), so that its `repr` is complete."""
    values = thing.values() if isinstance(thing, Mapping) else thing
    others = set(map(type, values)) - {bool, int, float, complex, str, bytes, type(None)}
    if not others:
        return True
    return others == {tuple} and depth > 0 and all(_plain(v, depth - 1) for v in values if type(v) is tuple)


def _record(thing: Any, child: Callable[[str, Any], Flat], path: str) -> Flat:
    """A NamedTuple, dataclass, module or other object: its type and its parts."""
    if isinstance(thing, torch.nn.Module):
        parts = {"modules": re.sub(r" at 0x[0-9a-f]+", "", repr(thing)), **thing.state_dict()}
    elif isinstance(thing, Stage):  # its other fields bind the same objects
        parts = {"init": thing.init, "step": thing.step}
    elif isinstance(thing, Model):
        parts = _plain_model(thing)._asdict()
        del parts["parallel"]
    elif isinstance(thing, ScalarModel):
        parts = _plain_scalar_model(thing)._asdict()
    elif hasattr(thing, "_fields"):
        parts = thing._asdict()
    elif dataclasses.is_dataclass(thing):
        parts = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    elif hasattr(thing, "__dict__") and not inspect.ismodule(thing):
        parts = vars(thing)
    else:
        raise TypeError(
            f"fingerprint: cannot look into {path}, of type {_name(type(thing))}; bind a NamedTuple or a "
            "frozen dataclass instead, or give it a method fingerprint() -> str"
        )
    if isinstance(digest := parts.get("digest"), str) and digest:
        return {"": f"{_name(type(thing))} {digest}"}
    if {"spec", "encode", "decode"} <= set(parts):  # a tokenizer: its functions hold caches
        return child("", parts["spec"])
    return _merge(thing, {name: child(name, part) for name, part in parts.items()}, parts)


def _plain_model(model: Model) -> Model:
    """The model that one process computes: groups that share its work are no part of a run's meaning."""
    parallel = model.parallel
    if parallel is None or (parallel.tensor is None and parallel.context is None):
        return model
    return parallel.build()


def _plain_scalar_model(scalar: ScalarModel) -> ScalarModel:
    """The scalar model that one process computes."""
    model = getattr(scalar.init, "keywords", {}).get("model")
    if not isinstance(model, Model):
        return scalar
    plain = _plain_model(model)
    return scalar if plain is model else scalar_model(plain)


def _merge(thing: Any, entries: dict[str, Flat], parts: Mapping[str, Any]) -> Flat:
    """Entries of all fields; those of functions share one name space, except where they differ."""
    flat = {"": _name(type(thing))}
    functions = [name for name in entries if callable(parts[name])]
    for name, own in entries.items():
        flat |= {name: own[name]} if name in functions else own
    for name in functions:
        for path, text in entries[name].items():
            short = path.removeprefix(f"{name}.")
            flat[short if flat.get(short, text) == text else path] = text
    return flat


def _contents(cell: Any) -> Any:
    """Value of a closure's variable."""
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has not been set yet
        return None


def _named_globally(thing: Any) -> bool:
    """Tells whether importing the qualified name gives this very function or class."""
    node: Any = sys.modules.get(getattr(thing, "__module__", None) or "")
    for part in getattr(thing, "__qualname__", "<none>").split("."):
        node = getattr(node, part, None)
    return node is thing


def _code(code: types.CodeType) -> str:
    """Digest of a lambda's code."""
    constants = [_constant(c) for c in code.co_consts]
    return _digest(repr((code.co_code.hex(), code.co_names, code.co_varnames, constants)).encode())


def _constant(thing: Any) -> str:
    """A constant of a function's code; sets, whose order changes with each process, are sorted."""
    if isinstance(thing, types.CodeType):
        return _code(thing)
    if isinstance(thing, tuple | frozenset):
        parts = [_constant(part) for part in thing]
        return f"{type(thing).__name__}{sorted(parts) if isinstance(thing, frozenset) else parts}"
    return repr(thing)


def _name(thing: Any) -> str:
    """Qualified name, with the module."""
    module = getattr(thing, "__module__", None) or "builtins"
    return f"{module}.{getattr(thing, '__qualname__', None) or thing}"


def _prefix(name: str, flat: Flat) -> Flat:
    """Entries of a part, with its name before theirs."""
    return {f"{name}.{path}" if name and path else name or path: text for path, text in flat.items()}


def _digest(data: Any) -> str:
    """Short digest of bytes."""
    return short_digest(hash_bytes(data))
