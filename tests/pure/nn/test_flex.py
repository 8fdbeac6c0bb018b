"""FlexAttention refuses devices on which it does not run. (Its values: test_backend.)"""

from __future__ import annotations

import pytest
import torch

from pure.nn.flex import flex

ONE = torch.ones(1, 2, 1, 16)


def test_refuses_a_dropout_mask() -> None:
    with pytest.raises(ValueError, match="flex takes no dropout mask; use backend='naive' or 'flash'"):
        flex(ONE, ONE, ONE, dropout_mask=torch.ones(1, 1, 2, 2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusal is the CPU's")
def test_refuses_gradients_and_transforms_on_a_cpu() -> None:
    message = "flex: on a CPU FlexAttention has no backward and no torch.func; use backend='auto'"
    with pytest.raises(ValueError, match=message):
        flex(ONE.clone().requires_grad_(), ONE, ONE)
    with pytest.raises(ValueError, match=message):
        torch.func.grad(lambda q: flex(q, ONE, ONE).sum())(ONE)
    with pytest.raises(ValueError, match=message):
        torch.func.vmap(flex)(*[ONE[None]] * 3)
