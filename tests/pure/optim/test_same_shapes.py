"""`check_same_shapes`: leaves of different shapes are refused by name. Different tree structures are not its
concern: `tree.map` refuses those."""

from __future__ import annotations

import pytest
import torch

from pure import optim
from pure.optim.same_shapes import check_same_shapes


def test_leaves_of_different_shapes_are_refused_with_path_and_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"the leaf 'layers/0/q' has the shapes \[3, 2\] and \[3, 1\]"):
        check_same_shapes({"layers": [{"q": torch.zeros(3, 2)}]}, {"layers": [{"q": torch.zeros(3, 1)}]})
    check_same_shapes({"a": torch.zeros(3)}, {"a": torch.zeros(3)}, {"a": torch.zeros(3)})
    check_same_shapes({"a": torch.zeros(3)}, {})


@pytest.mark.parametrize("shape", [(4, 3, 2), (3, 1), (1,), ()])
def test_updates_are_not_broadcast_to_params_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="nothing is broadcast"):
        optim.apply_updates({"w": torch.zeros(3, 2)}, {"w": torch.zeros(shape)})
    with pytest.raises(ValueError, match="nothing is broadcast"):
        optim.incremental_update({"w": torch.zeros(shape)}, {"w": torch.zeros(3, 2)}, 0.1)
