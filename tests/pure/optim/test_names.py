"""Names of optax that pure.optim lacks are answered with what there is; what the table says exists."""

from __future__ import annotations

from types import ModuleType

import optax
import pytest

from pure import optim
from pure.optim.names import INSTEAD


def transformations(library: ModuleType) -> list[str]:
    """Public functions of a library that return transformations."""
    named = {n: f for n in dir(library) if not n.startswith("_") and callable(f := getattr(library, n))}
    returned = {n: str(getattr(f, "__annotations__", {}).get("return")) for n, f in named.items()}
    return [n for n, kind in returned.items() if "GradientTransformation" in kind]


@pytest.mark.parametrize("library", [optax, optax.contrib], ids=lambda library: library.__name__)
def test_every_transformation_of_optax_is_ours_or_answered(library: ModuleType) -> None:
    names = transformations(library)
    assert len(names) > 20
    assert [n for n in names if n not in optim.__all__ and n not in INSTEAD] == []


def test_the_table_has_no_name_of_ours_and_names_what_there_is() -> None:
    assert set(INSTEAD) & set(optim.__all__) == set()
    for name, text in INSTEAD.items():
        for library in ("optax", "optax.contrib"):
            assert f"({library}.{name}(" not in text or hasattr(eval(library), name)
        for word in text.replace(",", " ").replace(":", " ").replace("(", " ").split():
            if word.startswith("optim.") and not word.startswith("optim.base"):
                assert hasattr(optim, word.split(".")[1]), word


def test_messages() -> None:
    with pytest.raises(
        AttributeError, match=r"pure.optim has no adabelief; with JAX .*from_optax\(optax.adabelief"
    ):
        optim.adabelief  # noqa: B018
    with pytest.raises(AttributeError, match=r"from_optax\(optax.contrib.prodigy\(...\)\)"):
        optim.prodigy  # noqa: B018
    with pytest.raises(AttributeError, match=r"pure.optim has no AdamW; write optim.adamw"):
        optim.AdamW  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'pure.optim' has no attribute 'nonsense'"):
        optim.nonsense  # noqa: B018
    assert not hasattr(optim, "nonsense")
