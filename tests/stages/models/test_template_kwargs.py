"""`--template_kwargs`: variables of a chat template are read from JSON, or refused in one line."""

from __future__ import annotations

import pickle

import pytest

from data_pipes.chat.chat import chat_template, render
from stages.models.template_kwargs import check_variables, template_variables


def test_a_json_object_gives_name_value_pairs() -> None:
    assert template_variables(None) == ()
    assert dict(template_variables('{"enable_thinking": false, "n": [1, "a"]}')) == {
        "enable_thinking": False,
        "n": [1, "a"],
    }


@pytest.mark.parametrize("text", ["enable_thinking=false", "[1]", "", "{'a': 1}", "[" * 100_000])
def test_text_that_is_no_json_object_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"--template_kwargs: .*enable_thinking") as error:
        template_variables(text)
    assert len(str(error.value).splitlines()) == 1


def test_the_variable_strftime_now_sets_the_date() -> None:
    variables = template_variables('{"strftime_now": "2025-01-31"}')
    source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
    template = chat_template(source, variables=variables)
    assert render(template, []) == "31 Jan 2025"
    assert render(pickle.loads(pickle.dumps(template)), []) == "31 Jan 2025"
    assert repr(variables) == repr(template_variables('{"strftime_now": "2025-01-31"}'))
    for date in ('"today"', "3", "null"):
        with pytest.raises(ValueError, match="strftime_now must be a date such as"):
            template_variables(f'{{"strftime_now": {date}}}')


def test_a_variable_that_the_template_does_not_use_is_refused() -> None:
    names = chat_template("{% set x = 1 %}{% if thinking %}{{ x }}{% endif %}{{ messages }}").program.names
    check_variables([("thinking", True)], names)
    with pytest.raises(ValueError, match=r"no variable 'thinkin'; it uses messages, thinking$"):
        check_variables([("thinkin", True)], names)
