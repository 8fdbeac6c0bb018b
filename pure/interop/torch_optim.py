"""States of torch.optim (Adam, AdamW, SGD, Muon) to states of our optimizers and back.

A run that began with torch resumes here, and in JAX through our state; a run of ours resumes with torch. Each
parameter is found by its name, never by its number.

    torch                                  here and in optax
    exp_avg, exp_avg_sq, step              ScaleByAdamState(mu, nu, count)
    momentum_buffer of SGD                 TraceState(trace)
    momentum_buffer of Muon                MuonState(mu), and a count so high that nothing is corrected

A step in torch updates its state in place, so every tensor is copied, both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.interop.torch_optim_read import (
    Parameters,
    Source,
    TorchParameter,
    read_parameters,
    step_count,
)
from pure.optim.base import INT32_MAX
from pure.plural import count_noun
from pure.types import Tree

MOMENTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "ScaleByAdamState": ("adam", {"mu": "exp_avg", "nu": "exp_avg_sq"}),
    "TraceState": ("sgd", {"trace": "momentum_buffer"}),
    "MuonState": ("muon", {"mu": "momentum_buffer"}),
}
"""Our state -> (torch's kind, our field -> torch's entry)."""

COUNTS = (
    "ScaleByScheduleState",
    "WeightDecaySchedule",
    "WrappedScheduleState",
    "InjectStatefulHyperparamsState",
)
"""States whose count is the number of updates so far."""

WITHOUT_MEMORY = ("EmptyState", "MaskedNode", "MaskedState", "PartitionState", "ApplyIfFiniteState")
"""States that torch has no counterpart for, and that are right as they are at the start."""


class _Moment(NamedTuple):
    """A parameter's moments in a state of ours."""

    node: Any
    leaves: dict[str, Tensor]  # torch's entry -> tensor


def state_from_torch_optim(
    source: Source,
    template: Tree,
    parameters: Parameters = None,
    names: Mapping[str, str] | None = None,
    *,
    step: int | None = None,
) -> Tree:
    """Converts the state of an optimizer of torch to that of an optimizer of ours.

    Args:
        source: the optimizer, its state_dict, or a sequence of them (Muon for matrices, AdamW for the rest).
        template: a state of ours to be filled, `optimizer.init(params)`. Its optimizer must have torch's
            hyperparameters: `optimizer_from_torch_optim` makes it so.
        parameters: the module, or torch's names of the parameters in the order in which the optimizer got
            them; None if it was made from `module.named_parameters()`.
        names: our path -> torch's name, such as `hf.weight_names(params)`; None: the path with dots.
        step: updates so far, for counts of schedules, where torch does not keep it (SGD, Muon).

    Returns:
        A new tree like `template`; every tensor is a copy.

    Raises:
        ValueError: naming the parameter, if it is missing on a side, was never stepped while others were, has
            another kind of state, shape, or a wider dtype; for amsgrad, dampening and other optimizers.

    Edge cases: an optimizer that was never stepped gives the template's own zeros. A parameter of SGD or Muon
    that was never stepped has zeros.

    Example:
        >>> from pure import optim
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> theirs = torch.optim.AdamW([("w", w)], lr=0.1)
        >>> w.grad = torch.tensor([2.0])
        >>> _ = theirs.step()
        >>> state = state_from_torch_optim(theirs, optim.adamw(0.1).init({"w": w.detach()}))
        >>> state[0].count, state[0].mu
        (tensor(1, dtype=torch.int32), {'w': tensor([0.2000])})
    """
    found = read_parameters(source, parameters)
    by_name = {alias: p for p in found for alias in p.aliases}
    steps = {count for p in found if (count := step_count(p)) is not None}
    if step is None and len(steps) == 1:
        step = next(iter(steps))
    elif step is None and not any(p.state for p in found):
        step = 0
    elif step is not None and steps - {step}:
        raise ValueError(f"from torch.optim: step={step}, but torch's state has {sorted(steps)}")
    used: set[str] = set()

    def fill(node: Any, path: str) -> Any:
        kind = type(node).__name__
        if kind in MOMENTS:
            return _fill_moments(node, by_name, names, used)
        if isinstance(node, dict):
            return {key: fill(child, f"{path}/{key}") for key, child in node.items()}
        if hasattr(node, "_fields"):
            _check_known(kind, path)
            filled = [fill(child, f"{path}/{key}") for key, child in zip(node._fields, node, strict=True)]
            node = type(node)(*filled)
            return node._replace(count=_count(node.count, step, kind)) if kind in COUNTS else node
        if isinstance(node, tuple | list):
            return type(node)(fill(child, f"{path}/{i}") for i, child in enumerate(node))
        return node.clone() if isinstance(node, Tensor) else node

    state = fill(template, "")
    for p in found:
        if p.state and p.name not in used:
            raise ValueError(
                f"from torch.optim: torch has {sorted(p.state)} for {p.name!r}, and the template keeps no "
                "state of it; build the optimizer with `optimizer_from_torch_optim`"
            )
    return state


def state_to_torch_optim(
    state: Tree, target: Source, parameters: Parameters = None, names: Mapping[str, str] | None = None
) -> Any:
    """Converts a state of ours to state_dicts of torch's optimizers, for their `load_state_dict`.

    Args:
        state: of an optimizer of ours.
        target: the optimizer that will resume, its state_dict, or a sequence of them. Their groups, with all
            hyperparameters, are returned as they are; their states are not read.
        parameters, names: as in `state_from_torch_optim`.

    Returns:
        A state_dict, or a list of them for a sequence; every tensor is a copy.

    Raises:
        ValueError: naming the parameter, if a side lacks it, or has another kind of state or a narrower
            dtype; for Muon after so few updates that our bias correction, which torch lacks, is not yet 1.

    Example:
        >>> from pure import optim
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> opt, theirs = optim.sgd(0.1, momentum=0.9), torch.optim.SGD([("w", w)], lr=0.1, momentum=0.9)
        >>> params = {"w": w.detach()}
        >>> _, state = opt.update({"w": torch.tensor([2.0])}, opt.init(params), params)
        >>> state_to_torch_optim(state, theirs)["state"]
        {0: {'momentum_buffer': tensor([2.])}}
    """
    several = not isinstance(target, torch.optim.Optimizer | Mapping)
    targets: list[Any] = [*target] if several else [target]  # type: ignore[misc]
    groups = [x.state_dict() if isinstance(x, torch.optim.Optimizer) else x for x in targets]
    empty = [{**x, "state": {}} if isinstance(x, Mapping) else x for x in targets]
    moments = _collect_moments(state)
    path_of = {_name(path, names): path for path in moments}
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in targets]
    used: set[str] = set()
    for p in read_parameters(empty, parameters):
        path = next((path_of[alias] for alias in p.aliases if alias in path_of), None)
        if path is None and (p.kind != "sgd" or p.group["momentum"]):
            raise ValueError(
                f"to torch.optim: torch's optimizer has {p.name!r}, and our state nothing of that name; it "
                f"has {sorted(path_of)[:4]}; give `names`, our path -> torch's name"
            )
        if path is not None:
            used.add(path)
            states[p.source].update(_entries(p, moments[path]))
    if set(moments) - used:
        raise ValueError(
            f"to torch.optim: our state has {sorted(set(moments) - used)[:4]}, and torch's optimizer no "
            "parameter of that name"
        )
    state_dicts = [{**g, "state": s} for g, s in zip(groups, states, strict=True)]
    return state_dicts if several else state_dicts[0]


def _fill_moments(
    node: Any, by_name: Mapping[str, TorchParameter], names: Mapping[str, str] | None, used: set[str]
) -> Any:
    """Fills one moment state of ours, whose parameters must agree on their count."""
    kind, entries = MOMENTS[type(node).__name__]
    steps: dict[str, int | None] = {}

    def leaf(path: str, old: Tensor, *, entry: str) -> Tensor:
        p = _find(path, by_name, names)
        if p.kind != kind:
            raise ValueError(
                f"from torch.optim: {p.name!r} has a state of {p.kind}, and the template's is "
                f"{type(node).__name__}"
            )
        used.add(p.name)
        steps[p.name] = step_count(p)
        return _copy(p, p.state.get(entry), old)

    trees = {
        field: tree.map_with_path(
            lambda path, old, entry=entry: leaf(path, old, entry=entry), getattr(node, field)
        )
        for field, entry in entries.items()
    }
    node = node._replace(**trees)
    if kind == "adam" and steps:
        return node._replace(count=torch.full_like(node.count, _common_step(steps)))
    return node._replace(count=torch.full_like(node.count, INT32_MAX)) if kind == "muon" else node


def _find(
    path: str, by_name: Mapping[str, TorchParameter], names: Mapping[str, str] | None
) -> TorchParameter:
    """The parameter of torch for one of our paths."""
    name = _name(path, names)
    if name not in by_name:
        raise ValueError(
            f"from torch.optim: no parameter {name!r} (our {path!r}) in torch's optimizer, which has "
            f"{list(by_name)[:4]}; give `names`, our path -> torch's name; freeze what torch does not train"
        )
    return by_name[name]


def _name(path: str, names: Mapping[str, str] | None) -> str:
    """torch's name of one of our paths."""
    return path.replace("/", ".") if names is None or path not in names else names[path]


def _copy(p: TorchParameter, value: Tensor | None, old: Tensor) -> Tensor:
    """Copies an entry to the dtype and device of the template's leaf; zeros if there is none."""
    if value is None:
        return torch.zeros_like(old)
    if value.shape != old.shape:
        raise ValueError(
            f"from torch.optim: {p.name!r} has the shape {list(value.shape)} in torch and "
            f"{list(old.shape)} in the template; are the names in the optimizer's order?"
        )
    if torch.promote_types(value.dtype, old.dtype) != old.dtype:
        raise ValueError(
            f"from torch.optim: {p.name!r} is {value.dtype} in torch and {old.dtype} in the template, which "
            "would round it; initialise the optimizer with params or a mu_dtype of torch's dtype"
        )
    return value.detach().to(device=old.device, dtype=old.dtype, copy=True)


def _common_step(steps: Mapping[str, int | None]) -> int:
    """The count that all parameters share; torch keeps one for each."""
    if len(set(steps.values())) == 1:
        return next(iter(steps.values())) or 0
    some = {count: name for name, count in steps.items()}
    listed = " and ".join(
        f"{name!r} {count if count is not None else 'never stepped'}" for count, name in some.items()
    )
    raise ValueError(
        f"from torch.optim: torch counts steps for each parameter, and here they differ: {listed}; ours "
        "has one count for all. Give them optimizers of their own (optim.partition), or freeze what is never "
        "stepped (optim.selective_transform)"
    )


def _count(count: Tensor, step: int | None, kind: str) -> Tensor:
    """The count of a schedule."""
    if step is None:
        raise ValueError(
            f"from torch.optim: {kind} counts updates, and torch's state does not say how many there were; "
            "give step="
        )
    return torch.full_like(count, step)


def _check_known(kind: str, path: str) -> None:
    """Refuses a state that torch has nothing for."""
    if kind not in (*COUNTS, *WITHOUT_MEMORY):
        raise ValueError(
            f"from torch.optim: the template has a {kind} at {path.strip('/') or 'its root'}, and torch's "
            "state nothing to fill it with; expected the state of adam, adamw, sgd or muon, or a chain or "
            "partition of these"
        )


def _collect_moments(node: Any) -> dict[str, _Moment]:
    """Our path -> its moments, from all states of moments in a tree."""
    if type(node).__name__ in MOMENTS:
        _, entries = MOMENTS[type(node).__name__]
        paths = tree.paths(getattr(node, next(iter(entries))))
        columns = [tree.leaves(getattr(node, field)) for field in entries]
        rows = [dict(zip(entries.values(), row, strict=True)) for row in zip(*columns, strict=True)]
        return {path: _Moment(node, row) for path, row in zip(paths, rows, strict=True)}
    if isinstance(node, dict):
        children = list(node.values())
    else:
        children = list(node) if isinstance(node, tuple | list) else []
    collected: dict[str, _Moment] = {}
    for child in children:
        collected |= _collect_moments(child)
    return collected


def _entries(p: TorchParameter, moment: _Moment) -> dict[int, dict[str, Tensor]]:
    """The state of one parameter in torch's form, by its number; empty before the first step."""
    kind, _ = MOMENTS[type(moment.node).__name__]
    if kind != p.kind or (kind == "sgd" and not p.group["momentum"]):
        raise ValueError(
            f"to torch.optim: {p.name!r} has our {type(moment.node).__name__}, and torch's group is of "
            f"{p.kind}{' without momentum' if p.kind == kind else ''}"
        )
    if kind == "muon":
        _check_muon(p, int(moment.node.count))
    for x in moment.leaves.values():
        if p.tensor is not None and (
            x.shape != p.tensor.shape or torch.promote_types(x.dtype, p.tensor.dtype) != p.tensor.dtype
        ):
            raise ValueError(
                f"to torch.optim: our state of {p.name!r} is {x.dtype}{list(x.shape)}, and torch stores it "
                f"like the parameter, {p.tensor.dtype}{list(p.tensor.shape)}"
            )
    if kind == "adam" and int(moment.node.count) == 0:
        return {}
    entries = {key: x.detach().clone() for key, x in moment.leaves.items()}
    if kind == "adam":
        entries = {"step": torch.tensor(float(moment.node.count), dtype=torch.float32), **entries}
    return {p.number: entries}


def _check_muon(p: TorchParameter, count: int) -> None:
    """Refuses a young Muon: ours corrects its mean for its start at zero, torch's does not."""
    momentum = p.group["momentum"]
    if p.group["nesterov"] and count > 0 and momentum**count > 1e-7:
        raise ValueError(
            f"to torch.optim: {p.name!r} had {count_noun(count, 'update')} of Muon; ours corrects the mean "
            f"for its start at zero and torch's does not, so the next steps differ until {momentum}^count < "
            "1e-7; hand over later, or with nesterov=False on both sides"
        )
