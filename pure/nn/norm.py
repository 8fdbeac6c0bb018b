"""Normalisation over the last axis: RMSNorm (Llama, Qwen) and LayerNorm (GPT-2).

Shape letters: D width.

Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019; Ba, Kiros and Hinton, "Layer Normalization",
2016.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure.config import ModelConfig
from pure.types import ParamSpec, Tree


def norm_spec(size: int, *, rms: bool) -> Tree:
    """Describes the parameters of a norm over `size` channels: a scale, and for LayerNorm a bias."""
    scale = {"scale": ParamSpec(shape=(size,), init="ones")}
    return scale if rms else {**scale, "bias": ParamSpec(shape=(size,), init="zeros")}


def norm(params: Tree, x: Tensor, *, config: ModelConfig) -> Tensor:
    """Applies the configured norm; x [..., D] -> [..., D]."""
    if config.use_rms_norm:
        return rms_norm(x, params["scale"], eps=config.rms_norm_eps)
    return layer_norm(x, params["scale"], params["bias"], eps=config.rms_norm_eps)


def rms_norm(x: Tensor, scale: Tensor, *, eps: float) -> Tensor:
    """Divides by the root mean square, then scales each channel.

    Keeps the size of activations the same in every layer, so that they neither explode nor vanish with depth.
    LayerNorm also subtracts the mean, which makes little difference in practice.

        y = scale · x / √(mean(x²) + eps),     mean over the D channels

    Args:
        x: [..., D], any float dtype; the mean is computed in float32 (float64 for float64).
        scale: [D], dtype of x.
        eps: > 0, keeps a row of zeros finite; it is added to the mean square, inside the root.

    Returns:
        [..., D], dtype of x.

    Steps:
        1. Convert x to float32, or keep float64: `torch.promote_types(x.dtype, torch.float32)`.
        2. Compute the mean of the squares over the last axis, [..., 1].
        3. Multiply x by the reciprocal root (`rsqrt`) of mean square plus eps, still in float32: [..., D].
        4. Convert to the dtype of x, then multiply by the scale.

    Edge cases: a row of zeros gives zeros, with a finite gradient.

    Example:
        The mean square of (3, 4) is 12.5, its root 3.5355.

        >>> rms_norm(torch.tensor([3.0, 4.0]), torch.ones(2), eps=1e-6)
        tensor([0.8485, 1.1314])

    Source: Zhang and Sennrich 2019, equation 4. Differs from it: eps; the order of step 4 is Llama's.
    """
    # 1. [..., D] in float32.
    upcast = x.to(torch.promote_types(x.dtype, torch.float32))
    # 2. Mean square [..., 1].
    mean_square = upcast.square().mean(-1, keepdim=True)
    # 3. Divide by the root, [..., D].
    y = upcast * (mean_square + eps).rsqrt()
    # 4. The dtype of x, then the scale.
    return y.to(x.dtype) * scale


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    """Subtracts the mean, divides by the standard deviation, then scales and shifts each channel.

    The norm of GPT-2 and of the original transformer. The variance is the biased one: the mean of the
    squares, divided by D and not by D - 1.

        y = scale · (x - mean(x)) / √(mean((x - mean(x))²) + eps) + bias,     means over the D channels

    Args:
        x: [..., D], any float dtype; the statistics are computed in float32 (float64 for float64).
        scale: [D], dtype of x.
        bias: [D], dtype of x.
        eps: > 0, keeps a constant row finite; it is added to the variance, inside the root.

    Returns:
        [..., D], dtype of x.

    Steps:
        1. Convert x to float32, or keep float64: `torch.promote_types(x.dtype, torch.float32)`.
        2. Subtract the mean over the last axis: [..., D].
        3. Compute the variance, the mean of the squares of that, [..., 1].
        4. Multiply by the reciprocal root (`rsqrt`) of variance plus eps, still in float32: [..., D].
        5. Convert to the dtype of x, then multiply by the scale and add the bias.

    Edge cases: a constant row gives the bias, with a finite gradient.

    Example:
        The mean of (1, 3) is 2, the variance 1.

        >>> layer_norm(torch.tensor([1.0, 3.0]), torch.ones(2), torch.zeros(2), eps=1e-6)
        tensor([-1.0000,  1.0000])

    Source: Ba, Kiros and Hinton 2016, equation 3.
    """
    # 1. [..., D] in float32.
    upcast = x.to(torch.promote_types(x.dtype, torch.float32))
    # 2. Subtract the mean, [..., D].
    centred = upcast - upcast.mean(-1, keepdim=True)
    # 3. Variance [..., 1].
    variance = centred.square().mean(-1, keepdim=True)
    # 4. Divide by the root, [..., D].
    y = centred * (variance + eps).rsqrt()
    # 5. The dtype of x, then scale and bias.
    return y.to(x.dtype) * scale + bias
