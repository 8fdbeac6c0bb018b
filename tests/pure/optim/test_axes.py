"""`pure.optim.axes`: dimension numbers, which say how Muon reshapes a leaf to matrices."""

from __future__ import annotations

import pytest
import torch

from pure import optim, tree
from pure.config import preset
from pure.nn.transformer import transformer
from pure.optim.axes import MuonDimensionNumbers, as_matrices, input_and_output, resolve


@pytest.mark.parametrize(
    ("shape", "numbers", "flat"),
    [
        ((5, 3), MuonDimensionNumbers(), (1, 3, 5)),
        ((5, 3), MuonDimensionNumbers(0, 1), (1, 5, 3)),
        ((2, 5, 3), MuonDimensionNumbers(-1, -2), (2, 3, 5)),
        ((2, 5, 3, 4), MuonDimensionNumbers((1, 3), 2), (2, 20, 3)),
    ],
)
def test_a_leaf_reshaped_to_matrices_and_back_is_equal(
    shape: tuple[int, ...], numbers: MuonDimensionNumbers, flat: tuple[int, ...]
) -> None:
    x = torch.arange(float(torch.Size(shape).numel())).view(shape)
    matrices, restore = as_matrices(x, numbers)
    assert matrices.shape == flat
    assert torch.equal(restore(matrices), x)


def test_rows_of_the_matrices_are_inputs() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # [O=2, I=3]
    assert as_matrices(x, MuonDimensionNumbers())[0].tolist() == [[[1, 4], [2, 5], [3, 6]]]


def test_hidden_matrices_selects_only_matrices_in_layers() -> None:
    spec = transformer(preset("tiny_config")).spec
    params = tree.map(lambda x: torch.empty(x.shape, device="meta"), spec)
    chosen = dict(zip(tree.paths(spec), resolve(optim.hidden_matrices, params), strict=True))
    assert chosen["embedding"] is None
    assert all(numbers is None or path.startswith("layers/") for path, numbers in chosen.items())
    assert sum(numbers is not None for numbers in chosen.values()) >= 7


def test_dimension_numbers_of_a_sub_tree_apply_to_its_leaves() -> None:
    one = MuonDimensionNumbers()
    numbers = {"a": one, "b": [None, one]}
    assert resolve(numbers, {"a": {"x": 1, "y": 2}, "b": [3, 4]}) == [one, one, None, one]
    assert resolve(numbers, {"a": None, "b": [3, optim.MaskedNode()]}) == [None]


def test_equal_axes_and_leaves_that_are_no_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input and output axes must differ.*shape \(2, 3\)"):
        input_and_output(torch.ones(2, 3), MuonDimensionNumbers(0, -2))
    with pytest.raises(ValueError, match="expected a matrix, got a leaf"):
        input_and_output(torch.ones(2, 3), None)
