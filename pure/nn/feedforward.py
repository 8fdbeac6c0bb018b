"""The feed-forward block: gated (SwiGLU, GeGLU) or plain.

Shape letters: D width, F inner width.

Shazeer, "GLU Variants Improve Transformer", 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from pure.config import ModelConfig
from pure.nn.linear import linear, linears
from pure.types import ParamSpec, Tree


def feedforward_spec(config: ModelConfig) -> Tree:
    """Describes the parameters: up [F, D], down [D, F], gate [F, D] when gated, and their biases.

    Most of a layer's parameters are here. Initialisation, counting and the check of checkpoints all
    read this description.

        std of up and gate = initializer_range,   std of down = initializer_range / √(2 · num_hidden_layers)

    Args:
        config: gives hidden_size D, intermediate_size F, num_hidden_layers, initializer_range, use_swiglu,
            mlp_bias.

    Returns:
        dict: name -> ParamSpec; matrices are (out, in).

    Steps:
        1. Describe "up" [F, D], and "down" with `_residual_spec`; with `use_swiglu` also "gate", as "up".
        2. With `mlp_bias`, add for each of these matrices a bias of as many zeros as it has rows, named
            "up_bias" and so on.

    Example:
        D is 8, F is 20: up has a bias of 20 numbers, down one of 8.

        >>> sizes = {"hidden_size": 8, "intermediate_size": 20, "num_attention_heads": 4}
        >>> config = ModelConfig(**sizes, mlp_bias=True, use_swiglu=False)
        >>> {name: leaf.shape for name, leaf in feedforward_spec(config).items()}
        {'up': (20, 8), 'down': (8, 20), 'up_bias': (20,), 'down_bias': (8,)}

    Source: Shazeer 2020; the std of down is that of Radford et al. 2019, section 2.3.
    """
    # 1. Matrices: up and gate [F, D], down [D, F].
    shape = (config.intermediate_size, config.hidden_size)
    up = ParamSpec(shape=shape, std=config.initializer_range)
    spec = {"up": up, "down": _residual_spec(config)}
    if config.use_swiglu:
        spec["gate"] = up
    # 2. Biases, as long as their matrix has rows.
    if config.mlp_bias:
        spec |= {
            f"{name}_bias": ParamSpec(shape=(matrix.shape[0],), init="zeros") for name, matrix in spec.items()
        }
    return spec


def feedforward(params: Tree, x: Tensor, *, config: ModelConfig) -> Tensor:
    """Applies the same two-layer network to every position.

    With a gate, one projection decides per channel how much of the other passes. That takes a third matrix,
    and is better at the same number of parameters.

        gated: y = W_down (act(W_gate x) ⊙ W_up x)          silu gives SwiGLU, gelu GeGLU
        plain: y = W_down act(W_up x)

    Args:
        params: up, down, and gate when `use_swiglu`; biases when `mlp_bias`.
        x: [..., D].
        config: hidden_act, use_swiglu, intermediate_size F.

    Returns:
        [..., D].

    Steps:
        1. Take the non-linearity from `activation(config.hidden_act)`.
        2. Project to the inner width F. Gated: both with `linears(params, ("gate", "up"), (F, F), x)`, then
            the activation of the gate times up. Plain: the activation of `linear` with "up" and "up_bias".
        3. Project back with `linear`, "down" and "down_bias": [..., D].

    Edge cases: a bias that is not in the params is None for `linear`; `linears` looks for its biases itself.

    Example:
        Plain, with relu: 3 and -3 become 3 and 0, their weighted sum is 3·2 + 0·5 = 6.

        >>> import torch
        >>> config = ModelConfig(use_swiglu=False, hidden_act="relu")
        >>> params = {"up": torch.tensor([[1.0], [-1.0]]), "down": torch.tensor([[2.0, 5.0]])}
        >>> feedforward(params, torch.tensor([3.0]), config=config)
        tensor([6.])

    Source: Shazeer 2020, equations 5 and 6.
    """
    # 1. The non-linearity.
    act = activation(config.hidden_act)
    # 2. Inner width, [..., F].
    if config.use_swiglu:
        gate, up = linears(params, ("gate", "up"), (config.intermediate_size,) * 2, x)
        inner = act(gate) * up
    else:
        inner = act(linear(params["up"], x, params.get("up_bias")))
    # 3. Back to [..., D].
    return linear(params["down"], inner, params.get("down_bias"))


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Returns the non-linearity by its name in ModelConfig.hidden_act."""
    table: dict[str, Callable[[Tensor], Tensor]] = {
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": partial(F.gelu, approximate="tanh"),
        "relu": F.relu,
    }
    return table[name]


def _residual_spec(config: ModelConfig) -> ParamSpec:
    """Describes `down`, which adds to the residual stream: std divided by √(2 layers), to bound the sum."""
    std = config.initializer_range / (2 * config.num_hidden_layers) ** 0.5
    return ParamSpec(shape=(config.hidden_size, config.intermediate_size), std=std)
