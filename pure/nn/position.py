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

    Each pair of channels turns at its own speed: the first by one radian a token, the last so slowly that it
    does not finish one turn in a context. Together their angles identify the position.

        angle(p, i) = p · frequency_i,     frequency_i = theta^(-2i/H), scaled by `rope_scaling`
        cos = factor · cos(angle),   sin = factor · sin(angle)

    Args:
        positions: [..., T] integers, in tokens from the start of the document.
        config: gives head_dim, rope_theta, rope_scaling.

    Returns:
        Rotation(cos [..., T, H/2], sin [..., T, H/2]), float32, times yarn's attention factor.

    Steps:
        1. Take the frequencies from `rope_frequencies`, [H/2], to the device of the positions.
        2. Multiply each position by each frequency, in float32: angles [..., T, H/2], radians.
        3. Take cosine and sine, each times `attention_factor(config.rope_scaling)`.

    Edge cases: position 0 has cos 1 and sin 0 (times the factor).

    Example:
        The frequencies are 1 and 1/10: position 2 has the angles 2 and 0.2.

        >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
        >>> rotation(torch.tensor([0, 2]), config=ModelConfig(**sizes, rope_theta=100.0)).cos
        tensor([[ 1.0000,  1.0000],
                [-0.4161,  0.9801]])

    Source: Su et al. 2021, equation 15.
    """
    # 1. Frequencies [H/2].
    frequencies = rope_frequencies(config).to(positions.device)
    # 2. Angles [..., T, H/2].
    angles = positions[..., None].float() * frequencies
    # 3. Cosine and sine, times yarn's factor.
    factor = attention_factor(config.rope_scaling)
    return Rotation(angles.cos() * factor, angles.sin() * factor)


def rotate(x: Tensor, angles: Rotation) -> Tensor:
    """Rotates each pair of channels (i, i + H/2) by its position's angle.

    The dot product of a rotated query and key depends on their positions only through the distance, so
    attention can use relative positions. Channels i and i + H/2 are a pair, as in Llama and Qwen (in the
    paper, 2i and 2i + 1).

        a' = a cos - b sin,     b' = b cos + a sin,     x = (a, b)

    Args:
        x: [..., T, N, H], any float dtype.
        angles: cos and sin [..., T, H/2]; their leading axes broadcast with those of x.

    Returns:
        [..., T, N, H], dtype of x, computed in float32 (float64 for float64).

    Steps:
        1. Convert x to float32 (or keep float64), and split the last axis into its halves a and b,
            [..., T, N, H/2].
        2. Give cos and sin an axis for the heads, which all have the same angles: [..., T, 1, H/2].
        3. Rotate, concatenate a' and b' in this order, and convert to the dtype of x: [..., T, N, H].

    Edge cases: position 0 is not rotated; every rotation keeps the length of (a_i, b_i), if the factor in
    `angles` is 1.

    Example:
        A quarter turn takes (1, 0) to (0, 1).

        >>> quarter = Rotation(torch.tensor([[0.0]]), torch.tensor([[1.0]]))
        >>> rotate(torch.tensor([[[1.0, 0.0]]]), quarter)
        tensor([[[0., 1.]]])

    Source: Su et al. 2021, equation 34, with the channels in Llama's order.
    """
    # 1. Halves a and b in float32, [..., T, N, H/2].
    a, b = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)
    # 2. cos and sin [..., T, 1, H/2].
    cos, sin = angles.cos[..., None, :], angles.sin[..., None, :]
    # 3. Rotate, concatenate: [..., T, N, H], dtype of x.
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

    Steps:
        1. Compute the H/2 frequencies f_i in float64, on the CPU.
        2. Scale them as `rope_scaling.rope_type` says: "linear" divides, "llama3" is `_scale_llama3`, "yarn"
            is `_scale_yarn`, "default" or no scaling changes nothing.
        3. Convert to float32, [H/2].

    Edge cases: the first frequency is 1, whatever theta is; only the scaling changes it.

    Example:
        >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
        >>> rope_frequencies(ModelConfig(**sizes, rope_theta=100.0))
        tensor([1.0000, 0.1000])

    Source: Su et al. 2021; Llama 3.1's reference code; Peng et al. 2023, equations 17 to 23, except that the
    ramp is linear in the pair's index, as in the authors' code, and not in its number of turns.
    """
    # 1. Frequencies [H/2] in float64.
    size = config.head_dim or 0
    exponents = [-(i / size) for i in range(0, size, 2)]
    frequencies = torch.tensor([config.rope_theta**exponent for exponent in exponents], dtype=torch.float64)
    # 2. Scale them for longer contexts, [H/2].
    scaling = config.rope_scaling or RopeScaling()
    if scaling.rope_type == "linear":
        frequencies = frequencies / scaling.factor
    elif scaling.rope_type == "llama3":
        frequencies = _scale_llama3(frequencies, scaling)
    elif scaling.rope_type == "yarn":
        frequencies = _scale_yarn(frequencies, scaling, config.rope_theta)
    # 3. [H/2] float32.
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

    Attention alone sees a set of tokens without order. Each pair of channels is a point that turns with the
    position, at a speed of its own, as in `rotation`.

        v[2i] = sin(p / 10000^(2i/D)),     v[2i + 1] = cos(p / 10000^(2i/D))

    Args:
        positions: [..., T] integers p, tokens.
        size: D, even.

    Returns:
        [..., T, D] float32, sine and cosine in turn along the last axis.

    Steps:
        1. Compute the frequencies 10000^(-2i/D), i = 0 ... D/2 - 1, in float64 on the positions' device,
            [D/2].
        2. Multiply each position by each frequency, both in float32: angles [..., T, D/2], radians.
        3. Interleave: sine and cosine of each angle are neighbours, [..., T, D].

    Edge cases: position 0 is 0, 1, 0, 1, ...

    Example:
        The frequencies are 1 and 1/100.

        >>> sinusoidal(torch.tensor([0, 1]), 4)
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.8415, 0.5403, 0.0100, 0.9999]])

    Source: Vaswani et al. 2017, section 3.5.
    """
    # 1. Frequencies [D/2] in float64.
    frequencies = 10000.0 ** -(torch.arange(0, size, 2, dtype=torch.float64, device=positions.device) / size)
    # 2. Angles [..., T, D/2] in float32.
    angles = positions[..., None].float() * frequencies.float()
    # 3. Sine and cosine in turn, [..., T, D].
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


def _scale_llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Divides low frequencies by the factor, keeps high ones, and interpolates linearly between.

    A pair that turns often within the trained context has met all angles, and may go on as it is. A pair that
    does not finish a turn would meet new angles in a longer context; divided by the factor it does not.

        turns = L f / 2π,     s = clip((turns - low) / (high - low), 0, 1)
        result = s f + (1 - s) f / factor

    Args:
        frequencies: [H/2] float64 f, radians a token.
        scaling: gives L, low, high and the factor as original_max_position_embeddings, low_freq_factor,
            high_freq_factor, factor; low < high.

    Returns:
        [H/2] float64, radians a token.

    Steps:
        1. Count the turns of each pair within L tokens, [H/2].
        2. Blend s: 0 at `low` turns or fewer, 1 at `high` or more, linear between, [H/2].
        3. Add the parts: s of the frequency, and 1 - s of the divided frequency.

    Example:
        Pairs that turn 0.5, 2.5 and 8 times; low is 1, high is 4: s is 0, 0.5 and 1.

        >>> scaling = RopeScaling(rope_type="llama3", factor=2.0, original_max_position_embeddings=8)
        >>> frequencies = torch.tensor([0.5, 2.5, 8.0], dtype=torch.float64) * 2 * math.pi / 8
        >>> _scale_llama3(frequencies, scaling) / frequencies
        tensor([0.5000, 0.7500, 1.0000], dtype=torch.float64)

    Source: Llama 3.1's reference code.
    """
    # 1. Turns within the trained context, [H/2].
    turns = (scaling.original_max_position_embeddings or 0) * frequencies / (2 * math.pi)
    # 2. Part that is kept, 0 to 1, [H/2].
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    unscaled = blend.clamp(0, 1)
    # 3. Both parts, [H/2].
    return frequencies * unscaled + frequencies / scaling.factor * (1 - unscaled)


def _scale_yarn(frequencies: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """Keeps the frequencies of the first pairs, divides the last ones, and ramps linearly between.

    As `_scale_llama3`, with a ramp that is linear in the index of the pair, and not in its frequency. All but
    the result is plain Python numbers.

        pair(n) = H ln(L / 2πn) / (2 ln theta), the index of the pair that turns n times in L tokens
        first = max(⌊pair(beta_fast)⌋, 0),     last = min(⌈pair(beta_slow)⌉, H - 1)
        s_i = clip((i - first) / max(last - first, 0.001), 0, 1),     i = 0 ... H/2 - 1
        result = (1 - s) f + s f / factor

    Args:
        frequencies: [H/2] float64 f, radians a token.
        scaling: gives L, beta_fast, beta_slow and the factor; L is original_max_position_embeddings.
        theta: base of the wavelengths, > 1.

    Returns:
        [H/2] float64, radians a token.

    Steps:
        1. H is twice the number of frequencies; find the first and the last pair of the ramp.
        2. Compute the ramp s in float64, [H/2]: the part that is divided.
        3. Add the parts: s of the divided frequency, and 1 - s of the frequency.

    Edge cases: `first` may be equal to `last`: the ramp is then a step, not a division by zero. `last` is
    limited by H - 1 and not by H/2 - 1, so the ramp may end after the last pair.

    Example:
        H is 8; pair(10) = 4 log10(62 / 20π) is a little below 0, pair(1) a little below 4. So the ramp goes
        from pair 0 to 4, and s is 0, 1/4, 1/2, 3/4; the factor is 2.

        >>> limits = {"beta_fast": 10.0, "beta_slow": 1.0, "original_max_position_embeddings": 62}
        >>> scaling = RopeScaling(rope_type="yarn", factor=2.0, **limits)
        >>> _scale_yarn(torch.ones(4, dtype=torch.float64), scaling, 10.0)
        tensor([1.0000, 0.8750, 0.7500, 0.6250], dtype=torch.float64)

    Source: Peng et al. 2023, equations 17 to 23, with the ramp of the authors' code.
    """
    # 1. First and last pair of the ramp.
    size, length = 2 * frequencies.numel(), scaling.original_max_position_embeddings or 0

    def pair(turns: float) -> float:
        return size * math.log(length / (2 * math.pi * turns)) / (2 * math.log(theta))

    first = max(math.floor(pair(scaling.beta_fast)), 0)
    last = min(math.ceil(pair(scaling.beta_slow)), size - 1)
    # 2. Part that is divided, 0 to 1, [H/2].
    ramp = (torch.arange(size // 2, dtype=torch.float64) - first) / max(last - first, 1e-3)
    scaled = ramp.clamp(0, 1)
    # 3. Both parts, [H/2].
    return frequencies / scaling.factor * scaled + frequencies * (1 - scaled)
