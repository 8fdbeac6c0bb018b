"""`TrainState` is a plain tree: named leaves, saved and restored as bytes."""

from __future__ import annotations

import torch

from pure import tree
from pure.serial.serial import from_bytes, to_bytes
from stages.state import TrainState


def test_a_state_has_named_leaves_and_round_trips_through_bytes() -> None:
    params = {"w": torch.ones(2)}
    key = torch.tensor([0, 42], dtype=torch.uint32)
    state = TrainState(
        torch.tensor(3, dtype=torch.int32), key, params, (None, ()), {}, {"loss": torch.tensor(0.5)}
    )
    assert tree.paths(state) == ["step", "key", "params/w", "metrics/loss"]
    back = from_bytes(tree.zeros_like(state), to_bytes(state))
    assert isinstance(back, TrainState)
    assert back.step.item() == 3
    assert back.key.tolist() == [0, 42]
    assert back.metrics["loss"].item() == 0.5
