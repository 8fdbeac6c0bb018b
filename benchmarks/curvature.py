"""Products with the Hessian and the Gauss-Newton matrix, over the time of a gradient.

A model of 143 thousand parameters, 8 rows of 32 tokens, float32. The peers are the ways that torch itself
offers for the same function: reverse over reverse and forward over reverse mode of torch.func, and
`torch.autograd.functional.vhp`. All products are checked against each other. CPU seconds, the least of N
rounds in which all take turns, so that load on the machine counts little.

    OMP_NUM_THREADS=1 python benchmarks/curvature.py [--pairs N]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from _model import small_config
from _timing import least_cpu_seconds, make_parser
from torch import Tensor

from pure import random, tree
from pure.loss.cross_entropy import cross_entropy
from pure.nn.transformer import transformer
from pure.transform.curvature import gauss_newton_product, ggnvp, hessian_product, hvp
from pure.transform.grad import grad

ROWS, LENGTH = 8, 32
MODEL = transformer(
    small_config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
)


def main() -> None:
    """Print each product's time over that of a gradient."""
    options = make_parser(__doc__, pairs=20).parse_args()
    params = MODEL.init(random.key(0))
    values, spec = tree.flatten(params)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {tree.count(params):,} parameters")
    vector = [random.normal(random.key(5 + i), x.shape) for i, x in enumerate(values)]
    hessian, gauss_newton = sides(params, tree.unflatten(spec, vector)), gauss_newton_sides(params, vector)
    for group in (hessian, gauss_newton):
        check_equal([list(side()) for side in group.values()])
    plain = {"gradient": lambda: tree.leaves(grad(loss)(params))}
    seconds = least_cpu_seconds({**plain, **hessian, **gauss_newton}, options.pairs)
    for name, second in seconds.items():
        print(f"{name:<52} {second * 1e3:7.1f} ms {second / seconds['gradient']:6.2f}x")


def logits(params: Any) -> Tensor:
    """Return the logits [B, T, V] of fixed random rows."""
    return MODEL.forward(params, TOKENS[:, :-1])


def entropy(z: Tensor) -> Tensor:
    """Return the summed cross-entropy of logits."""
    return cross_entropy(z, TOKENS[:, 1:])[0]


def loss(params: Any) -> Tensor:
    """Return the loss whose curvature is measured."""
    return entropy(logits(params))


TOKENS = random.randint(random.key(1), (ROWS, LENGTH + 1), 0, 64).long()


def sides(params: Any, vector: Any) -> dict[str, Callable[[], list[Tensor]]]:
    """Return the ways to compute a product with the Hessian."""
    values, spec = tree.flatten(params)
    tangents = tree.leaves(vector)
    flat = lambda leaves: loss(tree.unflatten(spec, list(leaves)))  # noqa: E731
    product = hessian_product(loss, params)

    def reverse_reverse() -> list[Tensor]:
        gradient = torch.func.grad(flat)
        inner = lambda x: sum((g * t).sum() for g, t in zip(gradient(x), tangents, strict=True))  # noqa: E731
        return torch.func.grad(inner)(values)

    return {
        "hvp": lambda: tree.leaves(hvp(loss)(params, vector)),
        "hessian_product, many at one point": lambda: tree.leaves(product(vector)),
        "torch.func.grad of grad": reverse_reverse,
        "torch.func.jvp of grad": lambda: torch.func.jvp(torch.func.grad(flat), (values,), (tangents,))[1],
        "torch.autograd.functional.vhp": lambda: torch.autograd.functional.vhp(
            lambda *leaves: flat(leaves), tuple(values), tuple(tangents)
        )[1],
    }


def gauss_newton_sides(params: Any, vector: list[Tensor]) -> dict[str, Callable[[], list[Tensor]]]:
    """Return the ways to compute a product with the Gauss-Newton matrix."""
    values, spec = tree.flatten(params)
    flat = lambda leaves: logits(tree.unflatten(spec, leaves))  # noqa: E731
    product, given = gauss_newton_product(logits, entropy, params), tree.unflatten(spec, vector)

    def by_func() -> list[Tensor]:
        z, along = torch.func.jvp(flat, (values,), (vector,))
        curved = torch.func.jvp(torch.func.grad(entropy), (z,), (along,))[1]
        return torch.func.vjp(flat, values)[1](curved)[0]

    return {
        "ggnvp": lambda: tree.leaves(ggnvp(logits, entropy)(params, given)),
        "gauss_newton_product, many at one point": lambda: tree.leaves(product(given)),
        "torch.func: jvp, jvp of the head's grad, vjp": by_func,
    }


def check_equal(products: list[list[Tensor]]) -> None:
    """Check that all products of one matrix are equal within rounding."""
    first, *others = (torch.cat([x.flatten() for x in product]) for product in products)
    assert all((x - first).norm() < 1e-4 * first.norm() for x in others), "the products differ"


if __name__ == "__main__":
    main()
