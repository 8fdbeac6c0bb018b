"""Cost limits of chat templates: hostile ones fail quickly and in little memory; a long chat is rendered."""

from __future__ import annotations

import resource
import time

import pytest

from data_pipes.chat.chat import chat_template, render
from data_pipes.chat.messages import Message
from data_pipes.chat.presets import NAMED
from data_pipes.chat.template import compile_template, run_template
from data_pipes.chat.template_costs import total_size

LONG = "{% set ns = namespace(s='x' * 8000000, l=[0] * 90000, n=0) %}"
LOOP = "{% for i in range(100000) %}"
END = "{% endfor %}"
HOSTILE = {
    "in": LONG + LOOP + "{% set a = ('y' in ns.s) %}" + END,
    "not in": LONG + LOOP + "{% set a = ns.s not in [ns.s ~ 'a', ns.s ~ 'b'] %}" + END,
    "equal": LONG + "{% set t = ns.s ~ '' %}" + LOOP + "{% set a = ns.s == t %}" + END,
    "chained": LONG + LOOP + "{% set a = 1 < ns.l | length < 3 %}{% set b = ns.s < ns.s[1:] < ns.s %}" + END,
    "a test": LONG + LOOP + "{% set a = ns.s is lower %}" + END,
    "select": LONG + LOOP + "{% set a = ns.l | select('equalto', ns.l) | list %}" + END,
    "slices": LONG + LOOP + "{% set a = ns.s[1:] %}" + END,
    "reversed": LONG + LOOP + "{% set a = ns.l[::-1] %}" + END,
    "sort": LONG + LOOP + "{% set a = ns.s | sort %}" + END,
    "sort a list": LONG + LOOP + "{% set a = ns.l | sort %}" + END,
    "unique": LONG + LOOP + "{% set a = ns.s | unique | list %}" + END,
    "slice": LONG + "{% for x in ns.s | slice(100000000) %}" + END,
    "slice to a list": "{{ [] | slice(1000000000) | list | length }}",
    "batch": "{{ [1] | batch(1000000000, 0) | list | length }}",
    "sum of lists": LONG + "{{ (ns.l | map('string') | map('list') | list) | sum(start=[]) | length }}",
    "wordwrap": LONG + "{{ ns.s | wordwrap(1) | length }}",
    "urlize": LONG + "{{ ns.s | urlize | length }}",
    "translate": LONG + "{{ ns.s.translate({120: ns.s}) | length }}",
    "join": LONG + LOOP + "{% set ns.n = ns.l | join(ns.s) | length %}" + END,
    "join itself": "{% set ns = namespace(x='ab') %}" + LOOP + "{% set ns.x = [ns.x, ns.x] | join(ns.x) %}" + END,
    "split": LONG + LOOP + "{% set a = ns.s.split('x') %}" + END,
    "a method": LONG + LOOP + "{% set a = ns.s.count('xy') %}" + END,
    "a lookup": LONG + "{% set d = {ns.s: 1} %}{% set t = ns.s ~ '' %}" + LOOP + "{% set a = d[t] %}" + END,
    "lists of lists": "{% set ns = namespace(l=[]) %}" + LOOP + "{% set ns.l = [ns.l, ns.l] %}" + END + "{{ ns.l }}",
    "lists compared": "{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}"
                      "{% set ns.m = [ns.m, ns.m] %}" + END + "{{ ns.l == ns.m }}",
    "lists joined": "{% set ns = namespace(l=[1]) %}" + LOOP + "{% set ns.l = ns.l + ns.l %}" + END,
    "lists repeated": "{{ ([0] * 60000000) | length }}",
    "lists written": "{% set ns = namespace(l=[1] * 50000) %}" + LOOP + "{% set a = ns.l ~ '' %}" + END,
    "tojson": LONG + LOOP + "{% set a = ns.l | tojson %}" + END,
    "tojson, indented": "{{ {'a': [1, 2, 3]} | tojson(indent=100000000) }}",
    "tojson, doubled": "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}" + END
                       + "{{ ns.l | tojson }}",
    "a width": "{{ '%099999d' * 900 % ([1] * 900) }}{{ '{:{}}'.format(1, 100000000) }}",
    "a width by a star": "{{ '%*d' % (100000000, 1) }}",
    "widths": "{{ ('{:>99999}' * 5000).format(1) }}",
    "signs": LONG + "{{ ('%' * 8000000) % 1 }}",
    "a product": "{% set ns = namespace(x=3) %}" + LOOP + "{% set ns.x = ns.x * ns.x %}" + END,
    "a power": "{% set ns = namespace(x=9) %}" + LOOP + "{% set ns.x = ns.x ** 64 %}" + END,
    "large bodies": LOOP + "{% set a = [" + "i," * 3000 + "] %}" + END,
    "macros in macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a macro in itself": "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('x') }}",
    "pprint": "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}" + END
              + "{{ ns.l | pprint }}",
    "captured": "{% set ns = namespace(x='ab') %}" + LOOP + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"
                "{% set ns.x = y %}" + END,
    "random": "{{ [1, 2] | random }}",
    "random in a map": "{{ [[1, 2]] | map('random') | list }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_quickly_and_in_little_memory(name: str) -> None:
    program = compile_template(HOSTILE[name])
    start, memory_before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ValueError, match=r"the chat template failed: .*(too l|without end|more than 100,000|random)"
    ) as error:
        run_template(program, messages=[{"role": "user", "content": "Hi"}])
    assert len(str(error.value).splitlines()) == 1
    assert time.process_time() - start < 3  # one second on an idle machine
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before < 400_000  # KiB


def test_a_long_template_is_refused() -> None:
    with pytest.raises(ValueError, match="has 300,000 characters; expected at most 262,144"):
        compile_template("a" * 300_000)


@pytest.mark.parametrize("name", ["chatml", "qwen3"])
def test_a_long_chat_is_rendered(name: str) -> None:
    template = chat_template(NAMED[name], bos_token="<s>", eos_token="</s>")
    many = [Message(("user", "assistant")[i % 2], "word " * 40) for i in range(2_000)]
    assert len(render(template, many)) > 400_000
    long = [Message("user", "x" * 2_000_000), Message("assistant", "</think>" + "y" * 2_000_000)]
    assert len(render(template, long)) > 4_000_000


def test_total_size_counts_nested_values_and_stops_at_its_limit() -> None:
    shared = ["a"]
    for _ in range(200):
        shared = [shared, shared]
    assert total_size(shared, limit=1000) > 1000
    assert total_size({"a": ("b", None, 1.5)}) == total_size({"a": ["b", None, 1.5]}) == 16 + 1 + 48 + 3
