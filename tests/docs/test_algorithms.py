"""The page of every algorithm: its entries."""

from __future__ import annotations

from pathlib import Path

from docs.extensions import algorithms
from tests.rules.source import ROOT


def read_all() -> list[algorithms.Algorithm]:
    return [
        found for path in algorithms.source_files(ROOT) if (found := algorithms.read_algorithm(ROOT, path))
    ]


def test_every_algorithm_has_a_test() -> None:
    tests = {
        a.path: algorithms.test_of(ROOT, a.path) or algorithms.TESTED.get(a.path, "none") for a in read_all()
    }
    assert {path: test for path, test in tests.items() if not (ROOT / test).exists()} == {}
    assert [path for path in algorithms.TESTED if algorithms.test_of(ROOT, path)] == []


def test_a_formula_is_shown_if_only_a_function_without_a_source_has_one(tmp_path: Path) -> None:
    path = tmp_path / "square.py"
    path.write_text(
        '"""Squares: a power."""\n\ndef build(x):\n    """Builds it.\n\n    Source: Euclid.\n    """\n\n'
        'def update(x):\n    """Squares.\n\n        y = x²\n\n    Args:\n        x: a number.\n    """\n\n'
        'def other(x):\n    """No formula."""\n'
    )
    found = algorithms.read_algorithm(tmp_path, path)
    assert found is not None
    assert [(each.name, each.formula, each.source) for each in found.functions] == [
        ("build", [], "Euclid."),
        ("update", ["    y = x²"], ""),
    ]


def test_a_function_without_a_formula_is_shown_by_its_steps_or_its_first_sentence(tmp_path: Path) -> None:
    path = tmp_path / "square.py"
    path.write_text(
        '"""Squares: a power."""\n\ndef square(x):\n    """Squares x.\n\n    Steps:\n        1. Take x.\n'
        '        2. Multiply.\n\n    Source: Euclid.\n    """\n\n'
        'def double(x):\n    """Doubles x: x and x.\n\n    More.\n\n    Source: Euclid.\n    """\n'
    )
    found = algorithms.read_algorithm(tmp_path, path)
    assert found is not None
    text = "\n".join(algorithms.entry(tmp_path, found, []))
    assert "::\n\n    1. Take x.\n    2. Multiply.\n" in text
    assert "\nDoubles x: x and x.\n" in text
    assert "More." not in text
