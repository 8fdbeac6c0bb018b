"""Optimizers of ours with the hyperparameters of torch's: a run of theirs has the same next step here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from pure import optim, tree
from pure.interop.torch_optim_read import Parameters, Source, TorchParameter, read_parameters
from pure.optim.base import ScalarOrSchedule
from pure.types import GradientTransformation, Tree

FROZEN = "frozen"
"""Label of leaves that torch's optimizer does not have."""


def optimizer_from_torch_optim(
    source: Source,
    params: Tree,
    parameters: Parameters = None,
    names: Mapping[str, str] | None = None,
    *,
    learning_rate: ScalarOrSchedule | None = None,
    ns_dtype: torch.dtype = torch.bfloat16,
) -> GradientTransformation:
    """Builds the optimizer of ours that does what one of torch does.

    torch's defaults are not optax's (AdamW decays by 0.01 there and by 0.0001 here), so the hyperparameters
    are read from torch's groups. Groups that differ become a `partition`.

    Args:
        source: Adam, AdamW, SGD or Muon of torch, a state_dict of one, or a sequence of them.
        params: our parameters; only their paths are read.
        parameters, names: as in `state_from_torch_optim`.
        learning_rate: a number or schedule for all groups; None takes each group's present one, as a number.
        ns_dtype: dtype of Muon's products; torch's is bfloat16.

    Returns:
        GradientTransformation; leaves that are parameters of the module and not of the optimizer are frozen.

    Raises:
        ValueError: naming the parameter, if it is missing on a side; for another optimizer, amsgrad,
            dampening, or groups of Adam that do not say if their weight decay is decoupled.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> theirs, ours = torch.optim.AdamW([("w", w)], lr=0.1), {"w": torch.tensor([1.0])}
        >>> opt = optimizer_from_torch_optim(theirs, ours)
        >>> updates, _ = opt.update({"w": torch.tensor([3.0])}, opt.init(ours), ours)
        >>> w.grad = torch.tensor([3.0])
        >>> _ = theirs.step()
        >>> torch.allclose(optim.apply_updates(ours, updates)["w"], w)
        True

    Edge cases: torch rounds Muon's bfloat16 products at other places, so the update of a matrix differs by a
    few percent of its norm; each is about as far from that in float64.
    """
    by_name = {alias: p for p in read_parameters(source, parameters) for alias in p.aliases}
    of_module = (
        dict(parameters.named_parameters(remove_duplicate=False))
        if isinstance(parameters, torch.nn.Module)
        else {}
    )
    settings: list[dict[str, Any]] = []
    labels: dict[str, str] = {}
    used: set[str] = set()
    for path in tree.paths(params):
        name = path.replace("/", ".") if names is None or path not in names else names[path]
        if name in by_name:
            setting = _setting(by_name[name], learning_rate)
            if setting not in settings:
                settings.append(setting)
            labels[path] = f"group{settings.index(setting)}"
            used.add(by_name[name].name)
        elif name in of_module:
            labels[path] = FROZEN
        else:
            raise ValueError(
                f"from torch.optim: no parameter {name!r} (our {path!r}) in torch's optimizer, which has "
                f"{list(by_name)[:4]}; give `names`, our path -> torch's name"
            )
    unused = [p.name for p in by_name.values() if p.name not in used]
    if unused:
        raise ValueError(
            f"from torch.optim: torch's optimizer has {unused[:4]}, and our params nothing of that name"
        )
    built = {f"group{i}": _build(setting, ns_dtype) for i, setting in enumerate(settings)}
    if FROZEN in labels.values():
        built[FROZEN] = optim.set_to_zero()
    if len(built) == 1:
        return next(iter(built.values()))
    return optim.partition(built, partial(labels_by_path, labels=labels))


def labels_by_path(params: Tree, *, labels: Mapping[str, str]) -> Tree:
    """Labels each leaf by its path."""
    return tree.map_with_path(lambda path, _: labels[path], params)


def _setting(p: TorchParameter, learning_rate: ScalarOrSchedule | None) -> dict[str, Any]:
    """The hyperparameters of a parameter that decide its update, as plain numbers."""
    group = p.group
    if p.kind == "adam" and "decoupled_weight_decay" not in group and group["weight_decay"]:
        raise ValueError(
            f"from torch.optim: the group of {p.name!r} has weight_decay={group['weight_decay']} and does "
            "not say if it is decoupled; set decoupled_weight_decay in it, True for AdamW and False for Adam"
        )
    keys = {
        "adam": ("betas", "eps", "weight_decay", "decoupled_weight_decay", "maximize"),
        "sgd": ("momentum", "nesterov", "weight_decay", "maximize"),
        "muon": (
            "momentum",
            "nesterov",
            "weight_decay",
            "ns_coefficients",
            "ns_steps",
            "eps",
            "adjust_lr_fn",
        ),
    }[p.kind]
    rate = float(group["lr"]) if learning_rate is None else learning_rate
    return {"kind": p.kind, "lr": rate, **{key: _plain(group.get(key)) for key in keys}}


def _plain(value: Any) -> Any:
    """A tensor as a number, also in a tuple."""
    if isinstance(value, tuple | list):
        return tuple(_plain(x) for x in value)
    return float(value) if isinstance(value, torch.Tensor) else value


def _build(setting: Mapping[str, Any], ns_dtype: torch.dtype) -> GradientTransformation:
    """The optimizer with these hyperparameters."""
    rate, decay = setting["lr"], setting["weight_decay"]
    ascend = [optim.scale(-1.0)] if setting.get("maximize") else []
    if setting["kind"] == "muon":
        axes = optim.MuonDimensionNumbers()
        step = optim.scale_by_muon(
            setting["ns_coefficients"],
            setting["ns_steps"],
            setting["momentum"],
            setting["eps"],
            nesterov=setting["nesterov"],
            weight_dimension_numbers=axes,
            ns_dtype=ns_dtype,
        )
        shape = optim.scale_by_shape(axes, 0.2 if setting["adjust_lr_fn"] == "match_rms_adamw" else None)
        return optim.chain(step, shape, optim.add_decayed_weights(decay), optim.scale_by_learning_rate(rate))
    if setting["kind"] == "adam":
        b1, b2 = setting["betas"]
        if setting["decoupled_weight_decay"]:
            step = optim.adamw(rate, b1, b2, setting["eps"], weight_decay=decay)
            return optim.chain(*ascend, step) if ascend else step
        links = [optim.add_decayed_weights(decay)] if decay else []
        return optim.chain(*ascend, *links, optim.adam(rate, b1, b2, setting["eps"]))
    links = [optim.add_decayed_weights(decay)] if decay else []
    momentum = setting["momentum"] or None
    return optim.chain(*ascend, *links, optim.sgd(rate, momentum, setting["nesterov"]))
