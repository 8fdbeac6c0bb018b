"""`arguments`: a call with too few arguments is refused by the public function's name, in one line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pure.transform.accumulate import accumulate
from pure.transform.arguments import require
from pure.transform.curvature import ggnvp, hvp
from pure.transform.ghost import clipped_sum, per_sample_norms
from pure.transform.noise_scale import gradient_noise
from pure.transform.per_sample import per_sample_fold, per_sample_grad, per_sample_map

PARAMS, BATCH, KEY = torch.tensor(1.0), {"x": torch.ones(2)}, torch.tensor([0, 0])


def loss(w: Tensor, batch: dict[str, Tensor], key: Any) -> tuple[Tensor, Tensor, dict]:
    return (w * batch["x"]).sum(), torch.tensor(1.0), {}


def add(total: Any, grads: Any) -> Any:
    return total + grads


CALLS: dict[str, tuple[Callable, tuple, str]] = {
    "per_sample_fold": (
        per_sample_fold(loss, add),
        (PARAMS, BATCH, KEY),
        "expected 4 arguments, got 3, without start; write "
        "per_sample_fold(loss, function)(params, batch, key, start)",
    ),
    "per_sample_grad": (
        per_sample_grad(loss),
        (PARAMS, BATCH),
        "expected 3 arguments, got 2, without key; write per_sample_grad(loss)(params, batch, key)",
    ),
    "per_sample_map": (
        per_sample_map(loss, abs),
        (PARAMS,),
        "got 1, without batch and key; write per_sample_map(",
    ),
    "per_sample_norms": (
        per_sample_norms(loss),
        (PARAMS, BATCH),
        "without key; write per_sample_norms(loss)(",
    ),
    "clipped_sum": (
        clipped_sum(loss, 1.0),
        (PARAMS, BATCH),
        "without key; write clipped_sum(loss, max_norm)(",
    ),
    "gradient_noise": (gradient_noise(loss), (PARAMS, BATCH), "without key; write gradient_noise(loss)("),
    "accumulate": (
        accumulate(loss),
        (PARAMS, BATCH),
        "expected 3 to 4 arguments, got 2, without key; write accumulate(loss)(params, batch, key)",
    ),
    "hvp": (
        hvp(loss),
        (PARAMS,),
        "expected at least 2 arguments, got 1, without v; write hvp(function)(params, v)",
    ),
    "ggnvp": (ggnvp(loss, loss), (), "got 0, without params and v; write ggnvp(outputs, loss)(params, v)"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_missing_argument_is_named(name: str) -> None:
    function, given, line = CALLS[name]
    with pytest.raises(TypeError) as raised:
        function(*given)
    assert str(raised.value).startswith(f"{name}: expected ")
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_too_many_arguments_are_refused_and_names_count() -> None:
    with pytest.raises(TypeError, match="per_sample_grad: expected 3 arguments, got 4; write"):
        per_sample_grad(loss)(PARAMS, BATCH, KEY, PARAMS)
    fold = per_sample_fold(loss, add)
    assert fold(PARAMS, BATCH, key=KEY, start=torch.tensor(5.0)) == 7
    assert pickle.loads(pickle.dumps(require("max(...)", "a, b", max)))(2, 3) == 3
