"""Positional encodings: rotary (RoPE, with its context extensions) and sinusoidal.

Shape letters: B batch, T tokens, N heads, H head width, D width.

Su et al., "RoFormer", 2021; Vaswani et al., "Attention Is All You Need", 2017; Peng et al., "YaRN", 2023.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pure.config import ModelConfig, RopeScaling


class Rotation(NamedTuple):
    """Cosine and sine of each position's angles.

    Fields:
        cos, sin: [..., T, H/2] float32.
    """

    cos: Tensor
    sin: Tensor


def rotation(positions: Tensor, *, config: ModelConfig) -> Rotation:
    """Computes the rotary angles of the given positions, once for all layers.

        angle(p, i) = p · frequency_i,     frequency_i = theta^(-2i/H), scaled by `rope_scaling`

    Args:
        positions: [..., T] integers, in tokens from the start of the document.
        config: gives head_dim, rope_theta, rope_scaling.

    Returns:
        Rotation(cos [..., T, H/2], sin [..., T, H/2]), float32, times yarn's attention factor.

    Source: Su et al. 2021, equation 15.
    """
    frequencies = rope_frequencies(config).to(positions.device)
    angles = positions[..., None].float() * frequencies
    factor = attention_factor(config.rope_scaling)
    return Rotation(angles.cos() * factor, angles.sin() * factor)


def rotate(x: Tensor, angles: Rotation) -> Tensor:
    """Rotates each pair of channels (i, i + H/2) by its position's angle.

    The dot product of a rotated query and key depends on their positions only through the distance, so
    attention can use relative positions. Channels i and i + H/2 are a pair, as in Llama and Qwen (in the
    paper, 2i and 2i + 1).

        a' = a cos - b sin,     b' = b cos + a sin,     x = (a, b)

    Args:
        x: [..., T, N, H].
        angles: cos and sin [..., T, H/2].

    Returns:
        [..., T, N, H], dtype of x, computed in float32 (float64 for float64).

    Example:
        A quarter turn takes (1, 0) to (0, 1).

        >>> quarter = Rotation(torch.tensor([[0.0]]), torch.tensor([[1.0]]))
        >>> rotate(torch.tensor([[[1.0, 0.0]]]), quarter)
        tensor([[[0., 1.]]])

    Source: Su et al. 2021, equation 34, with the channels in Llama's order.
    """
    a, b = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)
    cos, sin = angles.cos[..., None, :], angles.sin[..., None, :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def rope_frequencies(config: ModelConfig) -> Tensor:
    """Computes the angle per token of each pair of channels, scaled for longer contexts as configured.

    Low-frequency pairs, whose wavelength exceeds the trained context, meet unseen angles beyond it. "linear"
    divides all frequencies by `factor`; "llama3" and "yarn" divide only the low ones, and leave the high
    ones, which encode local order.

        f_i = theta^(-2i/H),  i = 0 ... H/2 - 1,  in float64
        linear: f / factor
        llama3: f / factor where 2π/f > L/low, f where 2π/f < L/high, else (1 - s) f/factor + s f,
                s = (L f / 2π - low) / (high - low),   low = low_freq_factor, high = high_freq_factor
        yarn:   f r + (f / factor)(1 - r),   r_i = 1 - clip((i - first) / max(last - first, 0.001), 0, 1)
                pair(n) = H ln(L / 2πn) / (2 ln theta), the index of the pair that turns n times in L tokens
                first = max(⌊pair(beta_fast)⌋, 0),   last = min(⌈pair(beta_slow)⌉, H - 1)

    Args:
        config: head_dim H, rope_theta, rope_scaling (None scales nothing); L is
            original_max_position_embeddings.

    Returns:
        [H/2] float32, radians a token; without yarn's `attention_factor`, which `rotation` applies.

    Example:
        >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
        >>> rope_frequencies(ModelConfig(**sizes, rope_theta=100.0))
        tensor([1.0000, 0.1000])

    Source: Su et al. 2021; Llama 3.1's reference code; Peng et al. 2023, equations 17 to 23, except that the
    ramp is linear in the pair's index, as in the authors' code, and not in its number of turns.
    """
    size = config.head_dim or 0
    exponents = [-(i / size) for i in range(0, size, 2)]
    frequencies = torch.tensor([config.rope_theta**exponent for exponent in exponents], dtype=torch.float64)
    scaling = config.rope_scaling or RopeScaling()
    if scaling.rope_type == "linear":
        frequencies = frequencies / scaling.factor
    elif scaling.rope_type == "llama3":
        frequencies = _scale_llama3(frequencies, scaling)
    elif scaling.rope_type == "yarn":
        frequencies = _scale_yarn(frequencies, scaling, config.rope_theta)
    return frequencies.float()


def attention_factor(scaling: RopeScaling | None) -> float:
    """Returns yarn's factor on cos and sin, by default 0.1 ln(factor) + 1; 1 for other types.

    It sharpens attention in longer contexts.
    """
    if scaling is None or scaling.rope_type != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0


def sinusoidal(positions: Tensor, size: int) -> Tensor:
    """Makes the fixed position embeddings of the original transformer, which are added to the embeddings.

        v[2i] = sin(p / 10000^(2i/D)),     v[2i + 1] = cos(p / 10000^(2i/D))

    Args:
        positions: [..., T] integers, tokens.
        size: D, even.

    Returns:
        [..., T, D] float32.

    Example:
        >>> sinusoidal(torch.tensor([0]), 4)
        tensor([[0., 1., 0., 1.]])

    Source: Vaswani et al. 2017, section 3.5.
    """
    frequencies = 10000.0 ** -(torch.arange(0, size, 2, dtype=torch.float64, device=positions.device) / size)
    angles = positions[..., None].float() * frequencies.float()
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


def _scale_llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Divides low frequencies [H/2] by the factor, keeps high ones, and interpolates linearly between."""
    turns = (scaling.original_max_position_embeddings or 0) * frequencies / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    unscaled = blend.clamp(0, 1)
    return frequencies * unscaled + frequencies / scaling.factor * (1 - unscaled)


def _scale_yarn(frequencies: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """Keeps the frequencies [H/2] of the first pairs, divides the last ones, and ramps linearly between."""
    size, length = 2 * frequencies.numel(), scaling.original_max_position_embeddings or 0

    def pair(turns: float) -> float:
        return size * math.log(length / (2 * math.pi * turns)) / (2 * math.log(theta))

    first = max(math.floor(pair(scaling.beta_fast)), 0)
    last = min(math.ceil(pair(scaling.beta_slow)), size - 1)
    ramp = (torch.arange(size // 2, dtype=torch.float64) - first) / max(last - first, 1e-3)
    scaled = ramp.clamp(0, 1)
    return frequencies / scaling.factor * scaled + frequencies * (1 - scaled)
