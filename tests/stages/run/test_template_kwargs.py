"""Variables of a template are read from JSON, or refused in one line."""

from __future__ import annotations

import pytest

from stages.run.template_kwargs import template_variables


def test_an_object_gives_its_pairs() -> None:
    assert template_variables(None) == ()
    assert dict(template_variables('{"enable_thinking": false, "n": [1, "a"]}')) == {
        "enable_thinking": False,
        "n": [1, "a"],
    }


@pytest.mark.parametrize("text", ["enable_thinking=false", "[1]", "", "{'a': 1}", "[" * 100_000])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"--template_kwargs: .*enable_thinking") as error:
        template_variables(text)
    assert len(str(error.value).splitlines()) == 1
