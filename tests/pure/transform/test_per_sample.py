"""The functions of `per_sample.py` and `per_sample_rows.py` equal a loop over batches of one, and Opacus."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pure import random, tree
from pure.config import ModelConfig
from pure.loss.cross_entropy import cross_entropy
from pure.nn.transformer import transformer
from pure.transform.accumulate import accumulate
from pure.transform.grad import grad
from pure.transform.jit import jit
from pure.transform.memory import peak
from pure.transform.per_sample import per_sample_fold, per_sample_grad, per_sample_map
from pure.types import Tree

MODEL = transformer(
    ModelConfig(vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=1, hidden_dropout=0.2, attention_dropout=0.1)
)  # fmt: skip
PARAMS, KEY = MODEL.init(random.key(0)), random.key(5)
TOKENS = random.randint(random.key(1), (5, 12), 0, 31).long()
BATCH = {"tokens": TOKENS[:, :-1].contiguous(), "labels": TOKENS[:, 1:].contiguous()}


def loss(params: Any, batch: dict[str, Tensor], key: Tensor) -> tuple[Tensor, Tensor, dict]:
    """Cross-entropy with dropout; an example's masks depend on its batch_position."""
    keys = torch.func.vmap(random.fold_in, (None, 0))(key, batch["batch_position"])
    return (*cross_entropy(MODEL.forward(params, batch["tokens"], key=keys), batch["labels"]), {})


def assert_same(ours: Any, theirs: Any) -> None:
    """Assert that leaves differ by at most 1e-5 of the leaf's largest magnitude."""
    assert tree.paths(ours) == tree.paths(theirs)
    for path, a, b in zip(tree.paths(ours), tree.leaves(ours), tree.leaves(theirs), strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-5 * b.abs().max(), path


def gradients_in_a_loop() -> Any:
    """Gradients of batches of one, stacked."""
    rows = [
        {**tree.map(lambda x, i=i: x[i : i + 1], BATCH), "batch_position": torch.tensor([i])}
        for i in range(5)
    ]
    return tree.stack([grad(lambda p, r=row: loss(p, r, KEY)[0])(PARAMS) for row in rows])


@pytest.mark.parametrize("chunk", [None, 1, 2, 5, 9])
def test_per_sample_grad_equals_a_loop_over_batches_of_one(chunk: int | None) -> None:
    assert_same(per_sample_grad(loss, chunk=chunk)(PARAMS, BATCH, KEY), gradients_in_a_loop())


def test_per_sample_gradients_add_up_to_the_gradient_of_the_batch() -> None:
    batch_gradient = accumulate(loss)(PARAMS, {**BATCH, "batch_position": torch.arange(5)}, KEY).grads
    assert_same(tree.map(lambda g: g.sum(0), per_sample_grad(loss)(PARAMS, BATCH, KEY)), batch_gradient)


def test_dropout_masks_depend_on_the_batch_position() -> None:
    """Two examples of the batch, with their old positions, have the same gradients as in the whole batch."""
    subset = {
        "tokens": BATCH["tokens"][[1, 3]],
        "labels": BATCH["labels"][[1, 3]],
        "batch_position": torch.tensor([1, 3]),
    }
    assert_same(
        per_sample_grad(loss)(PARAMS, subset, KEY), tree.map(lambda g: g[[1, 3]], gradients_in_a_loop())
    )


def test_per_sample_grad_compiled_by_layer_equals_the_loop() -> None:
    """As one graph, under vmap, it is compiled in `tests/laws/test_transforms.py`."""
    compiled = jit(per_sample_grad(loss, chunk=1), regions=True, backend="aot_eager")
    assert_same(compiled(PARAMS, BATCH, KEY), gradients_in_a_loop())


def test_per_sample_grad_under_vmap_over_models_equals_the_loop() -> None:
    two_models = tree.stack([PARAMS, tree.map(lambda x: x * 1.5, PARAMS)])
    for chunk in (None, 1, 2):
        gradients = torch.func.vmap(per_sample_grad(loss, chunk=chunk), (0, None, None))(
            two_models, BATCH, KEY
        )
        assert_same(tree.unstack(gradients)[0], gradients_in_a_loop())


def test_per_sample_grad_equals_opacus() -> None:
    from opacus import GradSampleModule

    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    params = {"w": [module[0].weight, module[2].weight], "b": [module[0].bias, module[2].bias]}
    params = tree.map(lambda p: p.detach().clone(), params)
    x, cotangent = random.normal(random.key(0), (5, 7, 4)), random.normal(random.key(1), (5, 7, 3))

    def our_loss(params: Any, batch: dict[str, Tensor], key: Tensor) -> tuple[Tensor, Tensor, dict]:
        hidden = (batch["x"] @ params["w"][0].T + params["b"][0]).tanh()
        return (
            ((hidden @ params["w"][1].T + params["b"][1]) * batch["cotangent"]).sum(),
            torch.tensor(1.0),
            {},
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hooked = GradSampleModule(module, loss_reduction="sum")
        (hooked(x) * cotangent).sum().backward()
    grads = per_sample_grad(our_loss)(params, {"x": x, "cotangent": cotangent}, KEY)
    for leaf, parameter in zip(
        (grads["w"][0], grads["b"][0], grads["w"][1], grads["b"][1]), hooked.parameters(), strict=True
    ):
        torch.testing.assert_close(leaf, parameter.grad_sample, rtol=1e-5, atol=1e-5)


def test_per_sample_fold_calls_the_function_with_each_gradient_in_order() -> None:
    """A list of all gradients, and the sum of clipped gradients as in DP-SGD, equal those of the loop."""
    grads = per_sample_fold(loss, lambda grads, g: [*grads, g])(PARAMS, BATCH, KEY, [])
    assert_same(tree.stack(grads), gradients_in_a_loop())
    squares = [x.flatten(1).square().sum(1) for x in tree.leaves(gradients_in_a_loop())]
    norms = torch.stack(squares).sum(0).sqrt()
    max_norm = norms.median()

    def add_clipped(total: Any, g: Any) -> Any:
        norm = torch.stack([x.square().sum() for x in tree.leaves(g)]).sum().sqrt()
        return tree.map(lambda t, x: t + x * (max_norm / norm).clamp(max=1), total, g)

    clipped_sum = per_sample_fold(loss, add_clipped)(PARAMS, BATCH, KEY, tree.zeros_like(PARAMS))
    weights = (max_norm / norms).clamp(max=1)
    assert_same(
        clipped_sum, tree.map(lambda g: torch.einsum("b,b...->...", weights, g), gradients_in_a_loop())
    )
    compiled = jit(per_sample_fold(loss, add_clipped), regions=True, backend="aot_eager")
    assert_same(compiled(PARAMS, BATCH, KEY, tree.zeros_like(PARAMS)), clipped_sum)


def test_bad_chunks_and_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="per_sample_grad: chunk must be at least 1 example, got 0"):
        per_sample_grad(loss, chunk=0)
    with pytest.raises(ValueError, match="per_sample_grad: the batch has no rows"):
        per_sample_grad(loss)(PARAMS, tree.map(lambda x: x[:0], BATCH), KEY)
    with pytest.raises(
        ValueError, match="per_sample_grad: the leaves of a batch must have the same number of rows"
    ):
        per_sample_grad(loss)(PARAMS, {**BATCH, "more": torch.zeros(2)}, KEY)
    with pytest.raises(ValueError, match="per_sample_fold: the batch has no rows"):
        per_sample_fold(loss, lambda carry, g: carry)(PARAMS, tree.map(lambda x: x[:0], BATCH), KEY, None)


def test_none_in_params_and_batch_passes_unchanged() -> None:
    def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        return (params["w"] * batch["x"]).sum(), torch.tensor(1.0), {}

    params, batch = {"w": torch.ones(2), "rest": None}, {"x": torch.ones(3, 2), "extra": None}
    for chunk in (None, 1, 2):
        found = per_sample_grad(loss, chunk=chunk)(params, batch, random.key(0))
        assert found["rest"] is None
        assert torch.equal(found["w"], torch.ones(3, 2))


@pytest.mark.parametrize("chunk", [None, 1])
def test_a_loss_that_mixes_examples_is_refused(chunk: int | None) -> None:
    def mean(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        return (params * batch["x"]).mean(), torch.tensor(1.0), {}

    args = torch.tensor(2.0), {"x": torch.tensor([1.0, 2.0, 9.0])}, random.key(0)
    compute = per_sample_grad(mean, chunk=chunk)
    compute(args[0], {"x": args[1]["x"][:1]}, args[2])  # one row shows nothing
    with pytest.raises(ValueError, match=r"two examples is 3, their losses alone 2 and 4: it mixes examples"):
        compute(*args)
    with pytest.raises(ValueError, match=r"per_sample_fold: .* mixes examples"):
        per_sample_fold(mean, torch.add)(*args, torch.tensor(0.0))


def is_norm(path: str, leaf: Tensor) -> bool:
    return "norm" in path


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_a_part_of_the_params_has_the_gradients_of_the_whole(chunk: int | None) -> None:
    """Values come from the same pass; leaves that `where` leaves out are None, as in `tree.partition`."""
    values, grads = per_sample_grad(loss, chunk=chunk, where=is_norm, value=True)(PARAMS, BATCH, KEY)
    assert_same(grads, tree.partition(is_norm, gradients_in_a_loop())[0])
    positions = torch.arange(5)
    for i in range(5):
        row = tree.map(lambda x, i=i: x[i : i + 1], {**BATCH, "batch_position": positions})
        torch.testing.assert_close(values[i], loss(PARAMS, row, KEY)[0])


def test_map_and_fold_see_the_values_and_the_part() -> None:
    expected = per_sample_grad(loss, where=is_norm)(PARAMS, BATCH, KEY)["norm"]["scale"]
    for chunk in (None, 1, 2):
        mapped = per_sample_map(loss, lambda g: g["norm"]["scale"][:, :3], chunk=chunk, where=is_norm)
        torch.testing.assert_close(mapped(PARAMS, BATCH, KEY), expected[:, :3])
    collect = lambda carry, value, grads: [*carry, (value, grads["norm"]["scale"])]  # noqa: E731
    values, grads = zip(
        *per_sample_fold(loss, collect, where=is_norm, value=True)(PARAMS, BATCH, KEY, []), strict=True
    )
    torch.testing.assert_close(torch.stack(grads), expected)
    found = per_sample_grad(loss, value=True)(PARAMS, BATCH, KEY)[0]
    torch.testing.assert_close(torch.stack(values), found)


def test_the_chunk_that_fits_into_memory_is_chosen() -> None:
    """The call stays below the bound, one byte less than the least is refused, and results are the same."""
    whole = peak(per_sample_grad(loss), PARAMS, BATCH, KEY)
    peaks = []
    for memory in (whole, whole - 1, whole // 2):
        compute = per_sample_grad(loss, memory=memory)
        assert_same(compute(PARAMS, BATCH, KEY), gradients_in_a_loop())
        peaks.append(peak(compute, PARAMS, BATCH, KEY))
        assert peaks[-1] <= memory
    assert peaks[0] == whole > peaks[1] > peaks[2]
    with pytest.raises(
        ValueError, match=r"one row takes \d+ bytes, and the results of 5 rows 88320; give at"
    ) as e:
        per_sample_grad(loss, memory=1000)(PARAMS, BATCH, KEY)
    least = int(str(e.value).split("give at least ")[1].split(",")[0])
    per_sample_grad(loss, memory=least)(PARAMS, BATCH, KEY)
    with pytest.raises(ValueError, match=f"memory={least - 1} is too little"):
        per_sample_grad(loss, memory=least - 1)(PARAMS, BATCH, KEY)


def test_leaves_that_are_left_out_take_no_memory() -> None:
    """A table of embeddings is most of a small model, and its gradient most of the memory."""
    inside = lambda path, x: path.startswith("layers")  # noqa: E731
    less = peak(per_sample_grad(loss, where=inside), PARAMS, BATCH, KEY)
    left_out = tree.nbytes(PARAMS) - tree.nbytes(tree.partition(inside, PARAMS)[0])
    assert peak(per_sample_grad(loss), PARAMS, BATCH, KEY) - less >= 5 * left_out


def test_bad_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="per_sample_grad: memory must be at least 1 byte, got 0"):
        per_sample_grad(loss, memory=0)
    with pytest.raises(ValueError, match="per_sample_map: chunk=2 and memory=9 are two choices of C"):
        per_sample_map(loss, lambda g: g, chunk=2, memory=9)
    with pytest.raises(ValueError, match=r"where matches none of the 20 leaves; .* 'embedding', 'layers/0"):
        per_sample_grad(loss, where=lambda path, x: False)(PARAMS, BATCH, KEY)
    with pytest.raises(ValueError, match="per_sample_fold: where matches none"):
        per_sample_fold(loss, lambda carry, g: carry, where=lambda path, x: False)(PARAMS, BATCH, KEY, None)
    with pytest.raises(ValueError, match="needs a measured row, which compilers and transforms do not allow"):
        torch.func.vmap(per_sample_grad(loss, memory=10**7), (None, None, 0))(PARAMS, BATCH, KEY[None])


def test_a_module_that_vmap_cannot_run_is_computed_one_by_one() -> None:
    """torch's GRU writes into its own tensors."""
    cell = nn.GRU(3, 4, batch_first=True)
    params = {name: x.detach() for name, x in cell.named_parameters()}

    def of_module(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        return (
            torch.func.functional_call(cell, params, (batch["x"],))[0].square().sum(),
            torch.tensor(1.0),
            {},
        )

    batch = {"x": random.normal(random.key(0), (4, 5, 3))}
    with pytest.raises(
        RuntimeError, match=r"per_sample_grad: torch.func.vmap cannot run this loss.* chunk=1"
    ):
        per_sample_grad(of_module)(params, batch, KEY)
    values, grads = per_sample_grad(of_module, chunk=1, value=True)(params, batch, KEY)
    total = grad(lambda p: of_module(p, batch, KEY)[0])(params)
    assert_same(tree.map(lambda g: g.sum(0), grads), total)
    torch.testing.assert_close(values.sum(), of_module(params, batch, KEY)[0])
