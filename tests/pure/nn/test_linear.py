"""`pure.nn.linear`: the product of activations and a weight matrix."""

from __future__ import annotations

import torch

from pure import random
from pure.nn.linear import LoRA, linear, linears, lora_linear, row_norms


def test_linear_multiplies_by_the_transposed_weight_and_adds_the_bias() -> None:
    weight, x, bias = (random.normal(random.key(i), s) for i, s in enumerate([(5, 3), (2, 4, 3), (5,)]))
    expected = torch.einsum("bti,oi->bto", x.double(), weight.double())
    torch.testing.assert_close(linear(weight, x).double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(linear(weight, x, bias).double(), expected + bias, rtol=1e-5, atol=1e-6)


def test_vmap_over_weights_equals_a_loop() -> None:
    weights, x = random.normal(random.key(0), (4, 5, 3)), random.normal(random.key(1), (2, 3))
    together = torch.func.vmap(linear, (0, None))(weights, x)
    torch.testing.assert_close(together, torch.stack([linear(w, x) for w in weights]))


def test_one_product_of_joint_matrices_is_split_in_proportion() -> None:
    """A process that shares the matrices has half of the rows that the sizes say."""
    q, k, q_bias, k_bias = (
        random.normal(random.key(i), s) for i, s in enumerate([(4, 3), (2, 3), (4,), (2,)])
    )
    x = random.normal(random.key(4), (5, 3))
    alone = {"q": q, "k": k, "q_bias": q_bias, "k_bias": k_bias}
    joint = {"q_k": torch.cat([q, k]), "q_k_bias": torch.cat([q_bias, k_bias])}
    expected = (linear(q, x, q_bias), linear(k, x, k_bias))
    torch.testing.assert_close(linears(alone, ("q", "k"), (8, 4), x), expected)
    torch.testing.assert_close(linears(joint, ("q", "k"), (8, 4), x), expected)


def random_node(dtype: torch.dtype = torch.float32) -> LoRA:
    base, a, b = (random.normal(random.key(i), s).to(dtype) for i, s in enumerate([(5, 3), (2, 3), (5, 2)]))
    return LoRA(base, a, b, squares=base.float().square().sum(-1))


def test_a_low_rank_update_is_the_product_with_the_sum() -> None:
    node, x, bias = random_node(), random.normal(random.key(7), (2, 4, 3)), torch.arange(5.0)
    total = node.base.double() + node.b.double() @ node.a.double()
    expected = x.double() @ total.T
    torch.testing.assert_close(lora_linear(node, x, None).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lora_linear(node, x, bias).double(), expected + bias, rtol=1e-5, atol=1e-5)
    dora = node._replace(magnitude=torch.arange(1.0, 6.0))
    gain = dora.magnitude.double() / total.norm(dim=-1)  # type: ignore[union-attr]
    expected = gain * expected + bias
    torch.testing.assert_close(lora_linear(dora, x, bias).double(), expected, rtol=1e-5, atol=1e-5)


def test_adapters_in_float32_give_the_dtype_of_the_input() -> None:
    node = random_node()._replace(magnitude=torch.ones(5), base=random_node().base.bfloat16())
    assert lora_linear(node, torch.ones(2, 3, dtype=torch.bfloat16), None).dtype == torch.bfloat16
    assert row_norms(random_node(torch.bfloat16)).dtype == torch.float32


def test_row_norms_are_those_of_the_sum_without_a_gradient_and_never_0() -> None:
    node = random_node()
    expected = (node.base.double() + node.b.double() @ node.a.double()).norm(dim=-1)
    torch.testing.assert_close(row_norms(node).double(), expected, rtol=1e-5, atol=1e-5)
    trained = node._replace(a=node.a.clone().requires_grad_(), b=node.b.clone().requires_grad_())
    assert not row_norms(trained).requires_grad
    zero = LoRA(torch.zeros(1, 3), torch.zeros(2, 3), torch.zeros(1, 2), squares=torch.zeros(1))
    assert row_norms(zero) > 0
