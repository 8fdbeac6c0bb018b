"""`pure.optim.freeze`: frozen leaves get zero updates, and with `selective_transform` no optimizer state."""

from __future__ import annotations

import torch

from pure import optim, tree


def test_selective_transform_has_no_state_for_frozen_leaves() -> None:
    params = {"embedding": torch.zeros(50), "layers": [{"q": torch.zeros(3)}]}
    opt = optim.selective_transform(optim.adam(0.1), freeze_mask=optim.path_mask("embedding"))
    assert optim.is_leafwise(opt)
    state = opt.init(params)
    assert tree.count(state) == 1 + 2 * 3  # Adam's step count, and two moments of q
    updates, _ = opt.update(tree.map(torch.ones_like, params), state, params)
    assert updates["embedding"].tolist() == [0.0] * 50
    torch.testing.assert_close(updates["layers"][0]["q"], torch.full((3,), -0.1))


def test_a_bool_as_mask_freezes_every_leaf_or_none() -> None:
    g = {"a": torch.ones(2)}
    for mask, expected in ((True, 0.0), (False, 1.0)):
        opt = optim.freeze(mask)
        assert opt.update(g, opt.init(g))[0]["a"].tolist() == [expected] * 2
