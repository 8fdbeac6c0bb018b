"""Parameters of torch's optimizers by name, with their group and state, from the optimizer or its state_dict.

torch numbers parameters in the order in which the optimizer got them. Names come from, in this order:
`param_names` of the groups (an optimizer made from `module.named_parameters()`), the module's parameters by
identity (given the optimizer itself), a list of names in that order, or the module's own order (a state_dict
with one group).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure.plural import count_noun

Source = torch.optim.Optimizer | Mapping[str, Any] | Sequence[Any]
"""An optimizer of torch, its state_dict, or a sequence of them, each with its own parameters."""

Parameters = torch.nn.Module | Sequence[str] | None
"""The module, or the names of its parameters in the optimizers' order; None if the groups have names."""

STATES: Mapping[str, frozenset[str]] = {
    "adam": frozenset(("step", "exp_avg", "exp_avg_sq")),
    "sgd": frozenset(("momentum_buffer",)),
    "muon": frozenset(("momentum_buffer",)),
}
"""Kind -> the entries of a parameter's state."""


class TorchParameter(NamedTuple):
    """A parameter of one of torch's optimizers.

    Fields:
        name: torch's name of it.
        aliases: all its names, more than one if it is tied.
        source: index of its optimizer in a sequence of them.
        number: its number in the state_dict.
        kind: "adam", "sgd" or "muon".
        group: its group's hyperparameters.
        state: its entries; empty if it was never stepped.
        tensor: the parameter itself, where the optimizer or the module is given.
    """

    name: str
    aliases: tuple[str, ...]
    source: int
    number: int
    kind: str
    group: Mapping[str, Any]
    state: Mapping[str, Any]
    tensor: Tensor | None


def read_parameters(source: Source, parameters: Parameters) -> list[TorchParameter]:
    """Lists the parameters of one optimizer of torch, or of several.

    Args:
        source: an optimizer (Adam, AdamW, SGD, Muon), its state_dict, or a sequence of these.
        parameters: the module whose parameters they are, or their names in the optimizers' order; None if the
            groups have `param_names`.

    Returns:
        The parameters, in torch's order.

    Raises:
        ValueError: if names are missing, do not fit or occur twice; for another optimizer; for amsgrad,
            dampening, or entries of a state that are not its own.
    """
    sources = [source] if isinstance(source, torch.optim.Optimizer | Mapping) else list(source)
    listed = None if parameters is None or isinstance(parameters, torch.nn.Module) else list(parameters)
    found: list[TorchParameter] = []
    for i, one in enumerate(sources):
        state = one.state_dict() if isinstance(one, torch.optim.Optimizer) else one
        if not (isinstance(state, Mapping) and {"state", "param_groups"} <= set(state)):
            raise ValueError(
                f"torch optimizer: expected an optimizer or its state_dict() with state and param_groups, "
                f"got {sorted(state) if isinstance(state, Mapping) else type(state).__name__}"
            )
        tensors = _tensors(one, state, parameters)
        names = _names(state, tensors, parameters, None if listed is None else listed[len(found) :])
        found += _of_one(i, state, names, tensors, parameters)
    if listed is not None and len(listed) != len(found):
        raise ValueError(
            f"torch optimizer: {count_noun(len(listed), 'name')} for "
            f"{count_noun(len(found), 'parameter')}; give one for each"
        )
    _check_twice(found)
    return found


def step_count(parameter: TorchParameter) -> int | None:
    """Returns the number of Adam's steps of a parameter (a tensor or a number in torch); None without state.

    Raises:
        ValueError: if it is not a whole number.
    """
    if "step" not in parameter.state:
        return None
    step = float(parameter.state["step"])
    if step != int(step):
        raise ValueError(f"torch optimizer: {parameter.name!r} has step {step}; expected a whole number")
    return int(step)


def kind_of(group: Mapping[str, Any]) -> str:
    """Tells Adam (and AdamW), SGD and Muon by the names of their hyperparameters.

    Raises:
        ValueError: for another optimizer, and for amsgrad and dampening, which have no counterpart here.

    Example:
        >>> kind_of(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1).param_groups[0])
        'sgd'
    """
    kinds = {"amsgrad": "adam", "dampening": "sgd", "ns_steps": "muon"}
    kind = next((kind for key, kind in kinds.items() if key in group), None)
    if kind is None or "momentum_decay" in group:
        settings = sorted(key for key in group if key not in ("params", "param_names"))
        raise ValueError(
            f"torch optimizer: expected Adam, AdamW, SGD or Muon of torch.optim, got one with {settings}"
        )
    if group.get("amsgrad"):
        raise ValueError(
            "torch optimizer: amsgrad=True keeps max_exp_avg_sq, which our Adam lacks (and optax's amsgrad "
            "takes the maximum after the bias correction); expected amsgrad=False"
        )
    if group.get("dampening"):
        raise ValueError(
            f"torch optimizer: dampening={group['dampening']} has no counterpart in `trace`; expected 0"
        )
    return kind


def _of_one(
    source: int,
    state: Mapping[str, Any],
    names: list[str],
    tensors: list[Tensor] | None,
    parameters: Parameters,
) -> list[TorchParameter]:
    """The parameters of one state_dict."""
    aliases: dict[int, list[str]] = {}
    if isinstance(parameters, torch.nn.Module):
        for name, p in parameters.named_parameters(remove_duplicate=False):
            aliases.setdefault(id(p), []).append(name)
    position, found = 0, []
    for group in state["param_groups"]:
        kind = kind_of(group)
        for number in group["params"]:
            name, tensor = names[position], None if tensors is None else tensors[position]
            entries = {k: v for k, v in state["state"].get(number, {}).items() if v is not None}
            parameter = TorchParameter(
                name, tuple(aliases.get(id(tensor), [name])), source, number, kind, group, entries, tensor
            )
            _check_entries(parameter)
            found.append(parameter)
            position += 1
    return found


def _tensors(one: Any, state: Mapping[str, Any], parameters: Parameters) -> list[Tensor] | None:
    """The parameters in the optimizer's order, from the optimizer, or by name or order from the module."""
    if isinstance(one, torch.optim.Optimizer):
        return [p for group in one.param_groups for p in group["params"]]
    if not isinstance(parameters, torch.nn.Module):
        return None
    groups = state["param_groups"]
    of_module = dict(parameters.named_parameters(remove_duplicate=False))
    if all("param_names" in group for group in groups):
        given = [name for group in groups for name in group["param_names"]]
        _check_names(given, of_module)
        return [of_module[name] for name in given]
    count = sum(len(group["params"]) for group in groups)
    unique: list[Tensor] = list(parameters.parameters())
    for chosen in (unique, [p for p in unique if p.requires_grad]):
        if len(groups) == 1 and len(chosen) == count:
            return chosen
    raise ValueError(
        f"torch optimizer: a state_dict with {count_noun(count, 'parameter')} in "
        f"{count_noun(len(groups), 'group')} and no names; the module has {len(unique)}. Give the optimizer "
        "itself, or the names in the order in which it got the parameters, group after group"
    )


def _names(
    state: Mapping[str, Any], tensors: list[Tensor] | None, parameters: Parameters, listed: list[str] | None
) -> list[str]:
    """The names of one optimizer's parameters, in its order."""
    groups = state["param_groups"]
    count = sum(len(group["params"]) for group in groups)
    if all("param_names" in group for group in groups):
        return [name for group in groups for name in group["param_names"]]
    if isinstance(parameters, torch.nn.Module):
        name_of = {id(p): name for name, p in reversed(list(parameters.named_parameters()))}
        for i, p in enumerate(tensors or []):
            if id(p) not in name_of:
                raise ValueError(
                    f"torch optimizer: its parameter number {i}, of shape {list(p.shape)}, is not one of the "
                    "module; give the module whose parameters the optimizer was made from"
                )
        return [name_of[id(p)] for p in tensors or []]
    if listed is None:
        raise ValueError(
            f"torch optimizer: {count_noun(count, 'parameter')} without names; give the module, or their "
            "names in the order in which the optimizer got them"
        )
    if len(listed) < count:
        raise ValueError(
            f"torch optimizer: {count_noun(len(listed), 'name')} for {count_noun(count, 'parameter')}; give "
            "one for each"
        )
    return listed[:count]


def _check_names(given: Sequence[str], of_module: Mapping[str, Any]) -> None:
    """Refuses param_names that the module lacks."""
    unknown = [name for name in given if name not in of_module]
    if unknown:
        raise ValueError(
            f"torch optimizer: its param_names have {unknown[:4]}, which the module lacks; it has "
            f"{list(of_module)[:4]}, ..."
        )


def _check_twice(found: list[TorchParameter]) -> None:
    """Refuses two parameters of one name."""
    names = [p.name for p in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"torch optimizer: {twice[:4]} occur twice among the names; each needs its own")


def _check_entries(p: TorchParameter) -> None:
    """Refuses a state whose entries are not those of its kind, or have another shape than the parameter."""
    expected = STATES[p.kind]
    if p.state and set(p.state) != expected:
        raise ValueError(
            f"torch optimizer: the state of {p.name!r} has {sorted(p.state)}, expected {sorted(expected)}"
        )
    moments = [value for key, value in p.state.items() if key != "step"]
    if any(type(x) is not Tensor for x in moments):
        raise ValueError(
            f"torch optimizer: the state of {p.name!r} holds {type(moments[0]).__name__}, expected plain "
            "tensors; gather a sharded state first (full_tensor)"
        )
    shapes = {tuple(x.shape) for x in (*moments, *([] if p.tensor is None else [p.tensor]))}
    if len(shapes) > 1:
        raise ValueError(
            f"torch optimizer: {p.name!r} and its state have the shapes {sorted(map(list, shapes))}; are the "
            "names in the optimizer's order?"
        )
