"""`scale_by_shape`: Muon's factor for a matrix, which depends on its shape."""

from __future__ import annotations

import pytest
import torch

from pure import optim


@pytest.mark.parametrize(
    ("shape", "rms", "factor"),
    [
        ((9, 1), None, 3.0),
        ((1, 9), None, 1.0),
        ((4, 9), 0.2, 0.6),
        ((9, 4), 0.2, 0.6),
        ((2, 16, 4), None, 2.0),
    ],
)
def test_factor_of_each_shape(shape: tuple[int, ...], rms: float | None, factor: float) -> None:
    """sqrt(max(1, rows / columns)); with `consistent_rms`, rms * sqrt(max(rows, columns))."""
    axes = optim.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)
    updates, _ = optim.scale_by_shape(axes, rms).update(torch.ones(shape), optim.EmptyState())
    torch.testing.assert_close(updates, torch.full(shape, factor))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="consistent_rms must be a finite number >= 0"):
        optim.scale_by_shape(consistent_rms=-0.2)
    with pytest.raises(ValueError, match=r"expected a matrix, got a leaf \(3,\)"):
        optim.scale_by_shape().update(torch.ones(3), optim.EmptyState())
