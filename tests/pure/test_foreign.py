"""Arrays and models of other libraries are answered with the line to write."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor

from pure import optim, random
from pure.config import ModelConfig
from pure.foreign import check_model, check_tensors
from pure.generation.sampling import Sampling
from pure.nn.transformer import transformer
from stages.dpo import dpo
from stages.grpo import grpo
from stages.kto import kto
from stages.ppo import ppo
from stages.pretrain import pretrain
from stages.reward import reward
from stages.sft import sft
from stages.stage import stage


def square_error(params: dict, batch: dict, key: Tensor | None) -> tuple:
    error = batch["x"] @ params["w"] - batch["y"]
    return error.square().sum(), torch.tensor(float(len(error))), {}


FIT = stage(square_error, optim.sgd(0.1))
W = {"w": torch.ones(3)}


def step_on(x: object) -> None:
    FIT.step(FIT.init(random.key(0), W), {"x": torch.ones(2, 3), "y": x})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: FIT.init(random.key(0), {"w": jnp.ones(3)}),
            r"stage.init: params: leaf 'w' is a jax.*to_torch",
        ),
        (
            lambda: FIT.init(random.key(0), {"w": np.ones(3)}),
            r"leaf 'w' is a numpy.ndarray.*torch.from_numpy",
        ),
        (lambda: FIT.init(jax.random.key(0), W), r"stage.init: key: it is a jax.*key_to_torch"),
        (lambda: FIT.init(jax.random.PRNGKey(0), W), r"stage.init: key: it is a jax.*key_to_torch"),
        (lambda: step_on(jnp.ones(2)), r"stage: the batch: leaf 'y' is a jax.*to_torch"),
        (
            lambda: step_on([1.0, 2.0]),
            r"stage: the batch: leaf 'y/0' is a builtins.float; expected a tensor$",
        ),
    ],
)
def test_an_array_is_refused_by_its_path(call: Callable, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call()


@pytest.mark.parametrize("build", [pretrain, sft, reward, dpo, kto, grpo, ppo], ids=lambda f: f.__name__)
def test_each_stage_says_how_to_convert_a_module(build: Callable) -> None:
    options = (
        {"score": None, "samples": 2, "sampling": Sampling(max_new_tokens=3), "reference": None}
        if build in (grpo, ppo)
        else {}
    )
    options = {"reference": None} if build is kto else options
    modules = {
        "from_flax": (flax.linen.Dense(3), flax.nnx.Linear(2, 2, rngs=flax.nnx.Rngs(0))),
        "from_module": (torch.nn.Linear(2, 2),),
        "language_model.load": ("folder",),
    }
    for line, given in modules.items():
        for module in given:
            with pytest.raises(TypeError, match=rf"^{build.__name__}: expected a Model, got a .*{line}"):
                build(module, optim.sgd(0.1), **options)


def test_our_own_pass() -> None:
    check_model("pretrain", transformer(ModelConfig()))
    check_tensors("params", {"a": [torch.ones(1)], "b": None})
