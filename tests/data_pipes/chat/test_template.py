"""The sandbox of chat templates: supported features give their text; costly or unsafe ones are refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

from data_pipes.chat.template import BEGIN, END, compile_template, run_template

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
DOUBLING_LOOP = "{% set ns = namespace(x='abcd') %}{% for i in range(99) %}{% set ns.x = "


def run_source(source: str, **variables: Any) -> str:
    return run_template(compile_template(source), messages=CHAT, **variables)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "{% for m in messages %}{{ m.role }}: {{ m['content'] }}\n{% endfor %}",
            "user: Hi\nassistant: Ho\n",
        ),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "Hi"),
        (
            "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
            "Ho",
        ),
        ("  {% if true %}\na\n  {% endif %}\nb", "a\nb"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(1) ~ f('b') }}", "<1><b>"),
        ("{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}a{% endcall %}", "<a>"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x + x * 2 }}", "a1a1a1"),
        (
            "{{ messages | tojson }}",
            '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]',
        ),
        ("{{ '<é>' | tojson }}", '"<é>"'),
        ("{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}2024{% endif %}", "2024"),
        (
            "{{ none }}{{ nothing }}{{ 7 % 4 }}{{ 2 ** 3 }}{{ 'a%02d' % 5 }}{{ '{}b'.format(1) }}",
            "None38a051b",
        ),
        (
            "{{ ['a', 'b'] | join(', ') }}{{ 'aa'.replace('a', 'bb') }}{{ range(3) | list }}",
            "a, bbbbb[0, 1, 2]",
        ),
        (
            "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
            f"{BEGIN}Hi{END}{BEGIN}Ho{END}",
        ),
    ],
)
def test_a_supported_feature_gives_its_text(source: str, expected: str) -> None:
    assert run_source(source) == expected


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for a in range(99999) %}{% for b in range(9) %}{% endfor %}{% endfor %}", "more than 100,000"),
        ("{% for a in range(9999) %}{{ range(9999) | sum }}{% endfor %}", "more than 100,000 numbers"),
        ("{% for a in range(9999) if range(9999) | sum %}{% endfor %}", "more than 100,000 numbers"),
        (
            "{% set _meter = dict %}{% for a in 'a' * 999 %}{% for b in 'a' * 999 %}{% endfor %}{% endfor %}",
            "rounds",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end"),
        (
            "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
            "too long",
        ),
        ("{% block a %}{{ self.a() }}{% endblock %}", "calls itself without end"),
        ("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", "calls itself without end"),
        ("{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}", "too long or too much"),
        (DOUBLING_LOOP + "ns.x ~ ns.x %}{% endfor %}", "too long or too much"),
        (DOUBLING_LOOP + "ns.x + ns.x %}{% endfor %}", "too long or too much"),
        (DOUBLING_LOOP + "[ns.x, ns.x] | join %}{% endfor %}", "too l"),
        (DOUBLING_LOOP + "ns.x | replace('a', ns.x) %}{% endfor %}", "too large"),
        (DOUBLING_LOOP + "ns.x.replace('a', ns.x) %}{% endfor %}", "too large"),
        (
            "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"
            "{% set ns.x = y %}{% endfor %}",
            "too long or too much",
        ),
        ("{{ 'a' * 1000000000 }}", "too large"),
        ("{{ 9 ** 9 ** 9 }}", "too large"),
        ("{{ '%1000000000d' % 1 }}", "too large"),
        ("{{ '{:1000000000}'.format(1) }}", "too large"),
        ("{{ 'a' | center(1000000000) }}", "too large"),
        ("{{ lipsum(1000000) }}", "'lipsum' is undefined"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not safe"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ raise_exception('no tools here') }}", "no tools here"),
        ("{{ strftime_now('%Y') }}", "give the date, --template_kwargs"),
        ("{% include 'a' %}", "no loader"),
    ],
)
def test_a_forbidden_feature_is_refused_quickly(source: str, words: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=f"the chat template failed: .*({words})"):
        run_source(source)
    assert time.perf_counter() - start < 5  # one second on an idle machine


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a\nb {% for m in messages %}", "line 2: .*endfor"),
        ("{{ 'a' ", "line 1"),
        ("a\n\n{% break %}", "loop"),
        ("{% nonsense %}", "line 1: .*nonsense"),
        ("{{ a | nothing }}", "nothing"),
        ("(" * 9 + "{{ " + "(" * 9999 + ")" * 9999 + " }}", "nested|parenthes"),
    ],
)
def test_a_template_that_does_not_compile_is_refused(source: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"the chat template does not compile: .*({words})"):
        compile_template(source)


def test_a_template_cannot_change_its_arguments() -> None:
    with pytest.raises(ValueError, match="the chat template failed"):
        run_template(compile_template("{{ messages.pop() }}"), messages=CHAT)
    assert len(CHAT) == 2


def test_runs_do_not_share_their_budget() -> None:
    program = compile_template("{% for i in range(60000) %}{% endfor %}")
    assert [run_template(program) for _ in range(3)] == ["", "", ""]


def test_the_fields_that_a_template_reads_are_known() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'user' and 'a' in m and m['b'] and m.get('c', '') and 'd' not in m %}"
        "{{ m.content }}{% endif %}{% endfor %}e"
    )
    assert compile_template(source).fields == {"role", "a", "b", "get", "c", "d", "content"}
