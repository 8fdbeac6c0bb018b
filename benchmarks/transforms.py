"""Print the table of parts and transforms: how far each derivative is from one that other code computes.

    python benchmarks/transforms.py [--write]

Parts and transforms are those of `tests/laws/test_transforms.py`, in float64. A cell is the relative distance
to the gradient by autograd (first group), to its inner product with a direction (second group), or to the
first of the four Hessian products (third group); "0" is below 1e-16. `--write` puts the table, and
the largest distances by kind of part, in `docs/transforms.md`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from pure import tree
from tests.laws.test_transforms import (
    DIRECTIONAL,
    FIRST,
    HESSIAN,
    OPTIMIZERS,
    PARTS,
    built,
    direction,
    gradient,
    inner,
)

ROOT = Path(__file__).parents[1]
COLUMNS = (*FIRST, *DIRECTIONAL, *HESSIAN)
KINDS = ("forward passes and decoding", "losses", "adapters", "optimizers", "steps", "tools")
PAGE = ROOT / "docs" / "transforms.md"

Row = Mapping[str, float]


def main() -> int:
    """Print one row a part, in Markdown, and one a kind of part.

    Returns:
        1 if a cell is above 1e-8.
    """
    warnings.simplefilter("ignore")
    rows: dict[str, Row] = {}
    print(heading("part"))
    for name in PARTS:
        rows[name] = dict(_distances(name))
        print(line(name, rows[name]), flush=True)
    print("\n" + summary(rows))
    if "--write" in sys.argv[1:]:
        replace(PAGE, "transforms", detail(rows))
        replace(PAGE, "summary", summary(rows))
        print(f"written: {PAGE.relative_to(ROOT)}")
    return int(max(max(row.values()) for row in rows.values()) > 1e-8)


def kind_of(name: str) -> str:
    """Return the kind of a part, one of KINDS, by its name."""
    if name in OPTIMIZERS:
        return "optimizers"
    if "step of" in name or "steps of sft" in name:
        return "steps"
    first = name.replace(",", " ").split()[0]
    if first in ("forward", "decode"):
        return "forward passes and decoding"
    if first in ("LoRA", "DoRA", "QLoRA"):
        return "adapters"
    if first in ("pretrain", "sft", "reward", "dpo", "orpo", "kto", "grpo", "ppo", "kl"):
        return "losses"
    return "tools"


def heading(first: str) -> str:
    """Return the first two lines of a table."""
    return f"| {first} | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}"


def line(name: str, row: Row) -> str:
    """Return one line of a table."""
    return f"| {name} | {' | '.join(_text(row[column]) for column in COLUMNS)} |"


def detail(rows: Mapping[str, Row]) -> str:
    """Return the whole table, and what it counts."""
    lines = [heading("part"), *(line(name, row) for name, row in rows.items()), "", counts(rows)]
    return "\n".join(lines)


def summary(rows: Mapping[str, Row]) -> str:
    """Return the table of the largest distance of each kind of part, and what it counts."""
    lines = [heading("parts, largest distance")]
    for kind in KINDS:
        of_kind = [row for name, row in rows.items() if kind_of(name) == kind]
        largest = {column: max(row[column] for row in of_kind) for column in COLUMNS}
        lines.append(line(f"{len(of_kind)} {kind}", largest))
    return "\n".join([*lines, "", counts(rows)])


def counts(rows: Mapping[str, Row]) -> str:
    """Return the sentence below a table."""
    worst = max(max(row.values()) for row in rows.values())
    return (
        f"{len(rows)} parts, {len(rows) * len(COLUMNS)} cells in float64, no blank; the largest distance is "
        f"{worst:.0e}."
    )


def replace(path: Path, name: str, table: str) -> None:
    """Put a table between the two marks of a file that have its name."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = path.read_text().split(start)
    path.write_text(before + start + "\n" + table + "\n" + end + rest.split(end)[1])


def _distances(name: str) -> Iterator[tuple[str, float]]:
    """Yield (transform, relative distance) of one part."""
    part, tangents = built(name), direction(name)
    for transform, compute in FIRST.items():
        yield transform, _distance(compute(part), gradient(name))
    for transform, along in DIRECTIONAL.items():
        expected = inner(gradient(name), tangents)
        yield transform, _distance(along(part.function, part.point, tangents), expected)
    products: Mapping[str, Any] = {
        transform: product(part.function, part.point, tangents) for transform, product in HESSIAN.items()
    }
    first = next(iter(products.values()))
    for transform, product in products.items():
        yield transform, _distance(product, first)


def _distance(found: Any, expected: Any) -> float:
    """Compute the distance of all numbers of two trees, relative to the expected ones."""
    a, b = (torch.cat([x.flatten() for x in tree.leaves(t)]) for t in (found, expected))
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def _text(distance: float) -> str:
    return "0" if distance < 1e-16 else f"{distance:.0e}"


if __name__ == "__main__":
    raise SystemExit(main())
