"""Flags about gradients become the arguments of a stage."""

from __future__ import annotations

import pytest

from stages.checkpoint.fingerprint import describe
from stages.run.gradient_options import gradient_options, micro_batches
from stages.run.options.base import OptimizerFlags, check_halves


def test_noise_scale_compares_the_micro_batches_of_accumulation_or_two_halves() -> None:
    assert [
        micro_batches(OptimizerFlags(gradient_accumulation=count, noise_scale=on))
        for on in (False, True)
        for count in (1, 2, 4)
    ] == [1, 2, 4, 2, 2, 4]
    assert "accumulation" not in gradient_options(OptimizerFlags(noise_scale=True, ema=0.9))
    assert gradient_options(OptimizerFlags(gradient_accumulation=4, ema=0.9)) == {
        "accumulation": 4,
        "ema": 0.9,
    }


def test_a_batch_without_halves_is_refused() -> None:
    flags = OptimizerFlags(noise_scale=True)
    check_halves(8, "--batch_size 8", flags)
    with pytest.raises(
        ValueError, match="--noise_scale compares two halves of a batch, and --batch_size 7 has"
    ):
        check_halves(7, "--batch_size 7", flags)


def test_clipping_per_sample_takes_the_place_of_accumulation() -> None:
    options = gradient_options(OptimizerFlags(clip_per_sample=0.5, dp_noise=1.0, gradient_accumulation=2))
    assert "accumulation" not in options
    described = describe(options["gradient"])
    assert {name: described[name] for name in ("max_norm", "noise", "parts")} == {
        "max_norm": "0.5",
        "noise": "1.0",
        "parts": "2",
    }
