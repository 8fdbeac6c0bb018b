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
from pure.transform.ghost import per_sample_norms
from pure.transform.noise_scale import gradient_noise, noise_scale
from pure.transform.per_sample import per_sample_grad
from stages.dpo import dpo
from stages.grpo import grpo
from stages.influence import influence
from stages.kto import kto
from stages.ppo import ppo
from stages.pretrain import pretrain
from stages.reward import reward
from stages.sft import sft
from stages.sharpness import sharpness
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


@pytest.mark.parametrize(
    "use",
    [
        lambda given: stage(given, optim.sgd(0.1)),
        per_sample_grad,
        per_sample_norms,
        gradient_noise,
        lambda given: influence(given, W),
        lambda given: sharpness(given, W, {}, random.key(0)),
    ],
)
def test_a_stage_in_the_place_of_its_loss_is_refused(use: Callable) -> None:
    with pytest.raises(TypeError, match=r"expected a loss.*got a Stage; of a stage write loss_of\(stage\)"):
        use(FIT)


def test_an_optimizer_of_torch_and_a_gradient_that_is_not_called_are_refused() -> None:
    with pytest.raises(TypeError, match=r"a pair \(init, update\), got AdamW; write optim.adamw"):
        stage(square_error, torch.optim.AdamW([torch.ones(1, requires_grad=True)]))  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"expected gradient to be a Gradient, such as noise_scale\(parts=4\)"
    ):
        stage(square_error, optim.sgd(0.1), gradient=noise_scale)  # type: ignore[arg-type]


def test_a_state_in_the_place_of_its_params_is_refused() -> None:
    batch = {"x": torch.ones(2, 3), "y": torch.ones(2)}
    state = FIT.init(random.key(0), W)
    with pytest.raises(TypeError, match=r"per_sample_grad: .* leaf '.*' is torch.*give state.params"):
        influence(square_error, state)(batch, batch)
    with pytest.raises(TypeError, match=r"curvature: .* leaf '.*' is torch.*give state.params"):
        sharpness(square_error, state, batch, random.key(0))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ((torch.tensor(1.0), 2, {}), r"the count to be a tensor \[\], got int; write torch.tensor"),
        ((torch.tensor(1.0), torch.tensor(2.0), {"a": 0.5}), r"the metric 'a' to be .* got 0.5"),
        ((torch.tensor(1.0), torch.tensor(2.0), {"a": (0.5, 1)}), r"the metric 'a' to be .* got \(0.5, 1\)"),
    ],
)
def test_the_count_and_the_metrics_of_a_loss_are_tensors(result: object, words: str) -> None:
    own = stage(lambda *_: result, optim.sgd(0.1), metrics=("a",))  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match=words):
        own.step(own.init(random.key(0), W), {"x": torch.ones(2, 3)})


def test_adapters_and_states_are_no_params_of_a_transformer() -> None:
    model = transformer(
        ModelConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, num_key_value_heads=1)
    )
    state = pretrain(model, optim.sgd(0.1)).init(random.key(0))
    for given in ({"layers": []}, state):
        with pytest.raises(
            ValueError, match=r"need an embedding and layers, got .* of a TrainState give state.p"
        ):
            model.forward(given, torch.tensor([[1, 2]]))


def test_a_loss_in_the_place_of_parts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected at least 2 micro-batches to compare, got <function"):
        noise_scale(square_error)  # type: ignore[arg-type]
