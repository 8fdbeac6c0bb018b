"""Print the table of parts and transforms: how far each derivative is from one that other code computes.

    python benchmarks/transforms.py

Parts and transforms are those of `tests/laws/test_transforms.py`, in float64. A cell is the relative distance
to the gradient by autograd (first group), to its inner product with a direction (second group), or to the
first of the four Hessian products (third group); "0" is below 1e-16.
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
from tests.laws.test_transforms import DIRECTIONAL, FIRST, HESSIAN, PARTS, built, direction, gradient, inner


def main() -> int:
    """Print one row a part, in Markdown.

    Returns:
        1 if a cell is above 1e-8.
    """
    warnings.simplefilter("ignore")
    columns = [*FIRST, *DIRECTIONAL, *HESSIAN]
    print(f"| part | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    worst = 0.0
    for name in PARTS:
        distances = dict(_distances(name))
        worst = max(worst, *distances.values())
        print(f"| {name} | {' | '.join(_text(distances[column]) for column in columns)} |", flush=True)
    print(f"\n{len(PARTS)} parts, {len(PARTS) * len(columns)} cells, largest distance {worst:.0e}")
    return int(worst > 1e-8)


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
