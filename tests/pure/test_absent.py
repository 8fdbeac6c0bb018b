"""`refuse_name`: the error for a name that another library has and ours does not."""

from __future__ import annotations

import pytest

from pure.absent import refuse_name


@pytest.mark.parametrize(
    ("name", "message"),
    [("rand", "^pure.random has no rand; write this$"), ("x", "^module 'pure.random' has no attribute 'x'$")],
)
def test_the_error_says_what_to_write_or_is_pythons_own(name: str, message: str) -> None:
    with pytest.raises(AttributeError, match=message):
        refuse_name("pure.random", name, {"rand": "write this"})
