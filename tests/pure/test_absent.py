"""The answer to a name of another library."""

from __future__ import annotations

import pytest

from pure.absent import refuse_name


@pytest.mark.parametrize(
    ("name", "message"),
    [("rand", "^pure.random has no rand; write this$"), ("x", "^module 'pure.random' has no attribute 'x'$")],
)
def test_the_answer_is_one_line(name: str, message: str) -> None:
    with pytest.raises(AttributeError, match=message):
        refuse_name("pure.random", name, {"rand": "write this"})
