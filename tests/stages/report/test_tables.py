"""Tables escape what models wrote, and sort numbers as numbers."""

from __future__ import annotations

from stages.report import tables
from stages.report.completions import Answer, Selection
from stages.report.gains import Gain, Pair

ATTACK = "</td><script>alert(1)</script><img src=http://x.test/a.png>\x1b[31m"


def test_texts_of_models_are_escaped() -> None:
    answer = Answer(ATTACK, ATTACK, {ATTACK: 1.0, "b": float("nan")})
    chosen = Selection(((1, answer),), (((1, answer),),), 1, 1)
    pages = (
        tables.make_completion_table(chosen),
        tables.make_timeline(chosen.timelines[0]),
        tables.make_pair_table([Pair("t", ATTACK, ATTACK, ATTACK, 0.0, 1.0)]),
        tables.make_gain_table([Gain(ATTACK, 0.0, 1.0, 0.5, 1.5, 3)]),
        tables.make_flag_table([{ATTACK: ATTACK}], [ATTACK], [ATTACK]),
    )
    for page in pages:
        assert "<script" not in page
        assert "<img" not in page
        assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in pages[1]
    assert "\\x1b[31m" in pages[1]


def test_numbers_carry_what_they_are_sorted_by() -> None:
    answers = [(step, Answer("p", "c", {"r": reward})) for step, reward in ((1200, 0.5), (3, float("nan")))]
    table = tables.make_completion_table(Selection(tuple(answers), (), 2, 2))
    assert '<td class="number" data-value="1200">1,200</td><td class="number" data-value="0.5">0.5' in table
    assert '<td class="number" data-value="">–</td>' in table
    assert "<th><button>step</button></th>" in table
    assert "total reward" not in table


def test_a_gain_is_drawn_between_its_bounds() -> None:
    table = tables.make_gain_table([Gain("a", 0.0, 0.5, 0.4, 0.6, 0), Gain("b", 1.0, 0.5, -0.8, -0.2, 10)])
    assert "+0.5  (+0.4 to +0.6)" in table
    assert "-0.5  (-0.8 to -0.2)" in table
    assert 'x1="5.0"' in table  # the widest bound is at the edge: 75 - 70


def test_flags_that_differ_are_found() -> None:
    runs = [{"a": 1, "b": None}, {"a": 1, "b": None, "c": 2}]
    assert tables.differing_flags(runs) == ["c"]
    assert tables.differing_flags([{"b": None}, {}]) == ["b"]
    assert tables.make_flag_table(runs, ["x", "y"], []) == ""
    assert "<td>null</td>" in tables.make_flag_table(runs, ["x", "y"], ["b"])


def test_a_text_without_a_visible_character_is_described() -> None:
    blank = [(0, Answer("p", " \n ", {})), (1, Answer("p", "", {})), (2, Answer("p", "x", {}))]
    table = tables.make_timeline(blank)
    assert "(3 blank characters)" in table
    assert "(empty)" in table
    assert "reward" not in table
