"""The error of an unsolved exercise."""

from __future__ import annotations

import pytest

from stages.teach.unsolved import Unsolved


def test_it_names_the_exercise_and_is_caught_as_not_implemented() -> None:
    with pytest.raises(NotImplementedError, match=r"^dpo_loss$"):
        raise Unsolved("dpo_loss")
