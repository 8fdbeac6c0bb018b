"""`partition`: each group of leaves has its own optimizer, chosen by label."""

from __future__ import annotations

import pytest
import torch

from pure import optim, tree
from pure.types import Tree

PARAMS = {"a": torch.tensor(1.0), "b": [torch.tensor(2.0), torch.tensor(3.0)]}


def test_each_label_is_updated_by_its_own_optimizer() -> None:
    def label_by_path(params: Tree) -> Tree:
        return tree.map_with_path(lambda path, _: "one" if path == "a" else "two", params)

    opt = optim.partition({"one": optim.sgd(0.5), "two": optim.sgd(1.0, 0.9)}, label_by_path)
    updates, state = opt.update(PARAMS, opt.init(PARAMS), PARAMS)
    assert updates == {"a": torch.tensor(-0.5), "b": [torch.tensor(-2.0), torch.tensor(-3.0)]}
    assert list(state.inner_states) == ["one", "two"]
    velocity = state.inner_states["two"].inner_state[0].trace
    assert velocity == {"a": optim.MaskedNode(), "b": [torch.tensor(2.0), torch.tensor(3.0)]}


def test_a_label_without_an_optimizer_is_refused() -> None:
    opt = optim.partition({"one": optim.sgd(0.1)}, {"a": "one", "b": "two"})
    with pytest.raises(ValueError, match="no transformation for label 'two'; there are 'one'"):
        opt.init(PARAMS)
