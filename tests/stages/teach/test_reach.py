"""`stages.teach.reach`: quick tests of an exercise, its own file first."""

from __future__ import annotations

import math

from stages.teach.reach import BUDGET, LONGEST_ELSEWHERE, Reached, pick_tests

OWN, LAW = "tests/pure/loss/test_dpo.py", "tests/laws/test_losses.py"


def test_all_cases_of_a_quick_test_are_one_id_and_its_own_file_comes_first() -> None:
    rows = [
        Reached(f"{LAW}::test_law[dpo]", 0.1, ("dpo",)),
        Reached(f"{LAW}::test_law[kto]", 0.1, ()),
        Reached(f"{OWN}::test_all[a]", 0.2, ("dpo",)),
        Reached(f"{OWN}::test_all[b]", 0.2, ("dpo",)),
        Reached(f"{OWN}::test_peer[a]", math.inf, ()),
        Reached(f"{OWN}::test_peer[b]", 0.1, ("dpo",)),
        Reached(f"{OWN}::test_none", 0.1, ()),
    ]
    ids, seconds = pick_tests("dpo", "pure.loss.dpo", rows)
    assert ids == [f"{OWN}::test_peer[b]", f"{OWN}::test_all", f"{LAW}::test_law[dpo]"]
    assert seconds == 0.6


def test_of_many_cases_some_at_even_distances_are_taken_unless_all_are_quick() -> None:
    rows = [Reached(f"{OWN}::test_many[{i}]", 0.05, ("dpo",)) for i in range(9)]
    ids, seconds = pick_tests("dpo", "pure.loss.dpo", rows)
    assert ids == [f"{OWN}::test_many[{i}]" for i in (0, 2, 4, 6, 8)]
    assert seconds == 0.25
    quick = [row._replace(seconds=0.01) for row in rows]
    assert pick_tests("dpo", "pure.loss.dpo", quick) == ([f"{OWN}::test_many"], 0.09)


def test_slow_tests_are_left_out_or_cut_to_a_few_cases() -> None:
    rows = [Reached(f"{OWN}::test_slow[{i}]", 0.5, ("dpo",)) for i in range(9)]
    rows += [Reached(f"{OWN}::test_slower", 9.0, ("dpo",))]
    ids, seconds = pick_tests("dpo", "pure.loss.dpo", rows)
    assert ids == [f"{OWN}::test_slow[{i}]" for i in range(3)]
    assert seconds <= BUDGET


def test_a_test_of_another_module_must_be_quicker() -> None:
    other = "tests/stages/evaluate/test_likelihood.py"
    rows = [
        Reached(f"{other}::test_long", 1.1 * LONGEST_ELSEWHERE, ("dpo",)),
        Reached(f"{OWN}::test_long", 1.1 * LONGEST_ELSEWHERE, ("dpo",)),
        Reached(f"{other}::test_quick", 0.1, ("dpo",)),
    ]
    assert pick_tests("dpo", "pure.loss.dpo", rows)[0] == [f"{OWN}::test_long", f"{other}::test_quick"]
