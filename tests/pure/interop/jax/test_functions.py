"""A JAX function in torch and a torch function in JAX: values and derivatives under every transform."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from pure import random, tree
from pure.interop.jax import jax_fn_in_torch, lower, to_torch, torch_fn_in_jax
from pure.interop.jax.opaque import crossed

# torch, when it first loads its rules of forward mode
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


class Pair(NamedTuple):
    first: Any
    second: Any


def in_jax(p: dict, x: Pair, scale: float = 1.0) -> dict:
    """A function with trees, an integer result and results that do not depend on every argument."""
    hidden = jnp.tanh(x.first @ p["w"]["a"]) * scale
    return {"out": Pair(hidden**2, [jnp.sin(p["b"])]), "argmax": (hidden.argmax(-1).astype(jnp.int32),)}


def in_torch(p: dict, x: Pair, scale: float = 1.0) -> dict:
    hidden = torch.tanh(x.first @ p["w"]["a"]) * scale
    return {"out": Pair(hidden**2, [torch.sin(p["b"])]), "argmax": (hidden.argmax(-1).to(torch.int32),)}


def draw(seed: int, *shape: int) -> Tensor:
    return random.normal(random.key(seed), shape)


P = {"w": {"a": draw(0, 3, 4)}, "b": draw(1, 2)}
X = Pair(draw(2, 5, 3), None)
CROSSED = jax_fn_in_torch(in_jax)


def loss(function: Callable, p: dict, x: Tensor) -> Tensor:
    result = function(p, Pair(x, None), scale=1.5)
    return result["out"].first.square().sum() + result["out"].second[0].sum()


def by_autograd(function: Callable) -> Any:
    p = tree.map(lambda x: x.clone().requires_grad_(), P)
    return torch.autograd.grad(loss(function, p, X.first), tree.leaves(p))


def twice_by_autograd(function: Callable) -> Any:
    p = tree.map(lambda x: x.clone().requires_grad_(), P)
    first = torch.autograd.grad(loss(function, p, X.first), tree.leaves(p), create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), tree.leaves(p))


def with_dual_numbers(function: Callable) -> Any:
    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(X.first, draw(8, 5, 3))
        return torch.autograd.forward_ad.unpack_dual(loss(function, P, x)).tangent


STACK = draw(3, 6, 5, 3)
TRANSFORMS: dict[str, Callable[[Callable], Any]] = {
    "value": lambda f: f(P, X),
    "autograd": by_autograd,
    "autograd twice": twice_by_autograd,
    "grad": lambda f: grad(partial(loss, f), (0, 1))(P, X.first),
    "vjp": lambda f: vjp(lambda x: loss(f, P, x), X.first)[1](torch.tensor(2.0)),
    "vmap": lambda f: vmap(lambda x: f(P, Pair(x, None)))(STACK),
    "vmap over the last axis": lambda f: vmap(lambda x: f(P, Pair(x, None)), 2)(STACK.movedim(0, 2)),
    "vmap of grad": lambda f: vmap(grad(partial(loss, f), (0, 1)), (None, 0))(P, STACK),
    "grad of vmap": lambda f: grad(lambda p: vmap(partial(loss, f, p))(STACK).square().sum())(P),
    "vmap of vmap": lambda f: vmap(vmap(partial(loss, f), (None, 0)), (0, None))(tree.stack([P, P]), STACK),
    "grad of grad": lambda f: grad(lambda x: grad(lambda y: loss(f, P, y))(x).square().sum())(X.first),
    "jvp": lambda f: jvp(lambda x: loss(f, P, x), (X.first,), (draw(4, 5, 3),)),
    "Hessian product": lambda f: jvp(grad(lambda x: loss(f, P, x)), (X.first,), (draw(4, 5, 3),)),
    "vmap of jvp": lambda f: vmap(lambda x: jvp(lambda y: loss(f, P, y), (x,), (x,)))(STACK),
    "jacfwd": lambda f: jacfwd(lambda x: f(P, Pair(x, None))["out"].first)(X.first),
    "hessian": lambda f: hessian(lambda b: f({**P, "b": b}, X)["out"].second[0].sum())(P["b"]),
    "dual numbers": with_dual_numbers,
}


def assert_equal(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    assert tree.structure(ours) == tree.structure(theirs)
    for x, y in zip(tree.leaves(ours), tree.leaves(theirs), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        difference = np.abs(np.asarray(x) - np.asarray(y)).max(initial=0)
        assert difference <= tolerance * np.abs(np.asarray(y)).max(initial=1)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_jax_function_in_torch(name: str) -> None:
    """Forward mode included: never a silent zero."""
    assert_equal(TRANSFORMS[name](CROSSED), TRANSFORMS[name](in_torch))


@pytest.mark.parametrize("name", ["vmap of grad"])
def test_it_compiles_as_one_graph(name: str) -> None:
    run = torch.compile(lambda: TRANSFORMS[name](CROSSED), fullgraph=True, backend="aot_eager")
    assert_equal(run(), TRANSFORMS[name](in_torch))


def test_a_compiled_call_takes_other_shapes_and_gradients() -> None:
    run = torch.compile(lambda p, x: loss(CROSSED, p, x), fullgraph=True, backend="aot_eager")
    for rows in (2, 3):
        x = draw(rows, rows, 3)
        p = tree.map(lambda x: x.clone().requires_grad_(), P)
        gradients = torch.autograd.grad(run(p, x), tree.leaves(p))
        assert_equal(tree.unflatten(tree.structure(P), list(gradients)), grad(partial(loss, in_torch))(P, x))


def test_a_trace_shows_one_opaque_node() -> None:
    graph = make_fx(grad(partial(loss, CROSSED)), tracing_mode="fake")(P, X.first)
    nodes = [n for n in graph.graph.nodes if n.target is torch.ops.intro2llm.jax_function.default]
    assert [n.args[2] for n in nodes] == ["int32 5,float32 5 4,float32 2", "float32 2,float32 3 4"]
    assert_equal(graph(P, X.first), grad(partial(loss, in_torch))(P, X.first))
    argmax, first, second = crossed(nodes[0].args[0])([np.asarray(x) for x in (P["b"], P["w"]["a"], X.first)])
    result = in_torch(P, X, 1.5)
    expected = [result["argmax"][0], result["out"].first, result["out"].second[0]]
    assert_equal([to_torch(x) for x in (argmax, first, second)], expected)


def test_the_operator_is_described_truly() -> None:
    graph = make_fx(CROSSED, tracing_mode="fake")(P, X)
    number, form = next((n.args[0], n.args[2]) for n in graph.graph.nodes if "jax_function" in str(n.target))
    arguments = (number, [P["b"], P["w"]["a"], X.first], form)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.intro2llm.jax_function.default, arguments, test_utils=tests)


LEAVES = st.sampled_from([(), (1,), (3,), (2, 3), (0,)])
DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int32,
    torch.uint32,
    torch.bool,
    torch.complex64,
]


@settings(max_examples=25)
@given(
    st.recursive(
        st.one_of(
            st.tuples(LEAVES, st.sampled_from(DTYPES)).map(lambda x: torch.ones(x[0]).to(x[1])), st.none()
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=2),
            st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            st.builds(Pair, inner, inner),
        ),
        max_leaves=4,
    ),
    st.sampled_from([1, 2.5, True, "name"]),
)
def test_any_tree_goes_through(x: Any, constant: Any) -> None:
    """Identities share no memory with their arguments, nor two results of one with each other."""
    there = jax_fn_in_torch(lambda x, c: (x, x, jnp.float32(c == constant)))
    first, second, same = there(x, constant)
    assert same == 1
    for ours in (first, second):
        assert_equal(
            tree.map(lambda y: y.to(torch.complex64), ours), tree.map(lambda y: y.to(torch.complex64), x)
        )
        assert [y.dtype for y in tree.leaves(ours)] == [y.dtype for y in tree.leaves(x)]
    addresses = [y.data_ptr() for t in (x, first, second) for y in tree.leaves(t) if y.numel()]
    assert len(set(addresses)) == len(addresses)


def test_a_result_may_be_written() -> None:
    """Neither arguments, nor what JAX keeps, nor a later result change."""
    table = jnp.arange(3.0)
    f = jax_fn_in_torch(lambda x: (x, table, table[1], 2.0))
    x = torch.ones(64)
    for y in f(x):
        y.zero_()
    assert x.sum() == 64
    assert [float(y.sum()) for y in f(x)] == [64, 3, 1, 2]


def test_complex_gradients_are_those_of_torch() -> None:
    z = torch.complex(draw(0, 3), draw(1, 3))
    ours = jax_fn_in_torch(lambda z: jnp.abs(z * z + z) ** 2)
    assert_equal(grad(lambda z: ours(z).sum())(z), grad(lambda z: ((z * z + z).abs() ** 2).sum())(z))
    there = torch_fn_in_jax(lambda z: (z * z + z).abs() ** 2)
    w = jnp.asarray(z.numpy())
    assert_equal(
        jax.grad(lambda z: there(z).sum())(w), jax.grad(lambda z: (jnp.abs(z * z + z) ** 2).sum())(w)
    )


def test_the_caller_may_write_its_arguments_at_once() -> None:
    """The call has read them when it returns."""
    f = jax_fn_in_torch(lambda x: (x @ x, x.sum()))
    for _ in range(5):
        x = torch.ones(300, 300)
        product, total = f(x)
        x.zero_()
        assert product[0, 0] == 300
        assert total == 90000


ARRAYS = jax.tree.map(lambda x: jnp.asarray(x.numpy()), (P, X.first, STACK))
THERE = torch_fn_in_jax(in_torch)


def jax_loss(function: Callable, p: dict, x: Any) -> Any:
    result = function(p, Pair(x, None), scale=1.5)
    return jnp.sum(result["out"].first ** 2) + jnp.sum(result["out"].second[0])


def jax_scan(function: Callable, p: dict, stack: Any) -> Any:
    return jax.lax.scan(lambda total, x: (total + jax_loss(function, p, x), total), jnp.float32(0), stack)


JAX_TRANSFORMS: dict[str, Callable[..., Any]] = {
    "value": lambda f, p, x, s: f(p, Pair(x, None)),
    "jit of grad": lambda f, p, x, s: jax.jit(jax.grad(partial(jax_loss, f), (0, 1)))(p, x),
    "vmap of grad": lambda f, p, x, s: jax.vmap(jax.grad(partial(jax_loss, f)), (None, 0))(p, s),
    "scan": lambda f, p, x, s: jax.grad(lambda p: jax_scan(f, p, s)[0])(p),
    "grad of grad": lambda f, p, x, s: jax.grad(
        lambda x: (jax.grad(lambda y: jax_loss(f, p, y))(x) ** 2).sum()
    )(x),
    "third derivative": lambda f, p, x, s: jax.grad(
        jax.grad(jax.grad(lambda b: jax_loss(f, {**p, "b": b}, x)))
    )(jnp.float32(0.5)),
    "remat": lambda f, p, x, s: jax.grad(jax.checkpoint(partial(jax_loss, f)))(p, x),
}


@pytest.mark.parametrize("name", JAX_TRANSFORMS)
def test_a_torch_function_in_jax(name: str) -> None:
    """(Compiled whole: one compilation in place of one an operation.)"""
    ours, theirs = (jax.jit(partial(JAX_TRANSFORMS[name], f)) for f in (THERE, in_jax))
    assert_equal(ours(*ARRAYS), theirs(*ARRAYS))


def test_forward_mode_is_refused_in_jax() -> None:
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: jax_loss(THERE, ARRAYS[0], x), (ARRAYS[1],), (ARRAYS[1],))


def test_what_crossed_twice_is_the_original() -> None:
    assert torch_fn_in_jax(CROSSED) is in_jax
    assert jax_fn_in_torch(THERE) is in_torch


def test_a_transform_of_what_crossed_is_not_taken_for_it() -> None:
    """Both libraries copy a function's attributes to its transforms."""
    cube = jax_fn_in_torch(jax.grad(torch_fn_in_jax(lambda x: x**3)))
    assert cube(torch.tensor(2.0)) == 12
    assert torch_fn_in_jax(grad(jax_fn_in_torch(lambda x: x**3)))(jnp.float32(2.0)) == 12
    with torch.no_grad():
        assert jax.grad(torch_fn_in_jax(lambda x: x**3))(jnp.float32(2.0)) == 12
    lowered = lower(lambda x: x**3)
    assert jax_fn_in_torch(lowered)(torch.tensor(2.0)) == 8
    for transform, expected in ((jax.grad, 12), (jax.jit, 8)):
        assert jax_fn_in_torch(transform(lowered))(torch.tensor(2.0)) == expected


def test_python_numbers_among_results_stay() -> None:
    assert jax.jit(lambda x: torch_fn_in_jax(lambda x: (x + 1, len(x)))(x)[0])(jnp.ones(3)).tolist() == [
        2,
        2,
        2,
    ]
    assert torch_fn_in_jax(lambda x: (x, None, len(x)))(jnp.ones(3))[1:] == (None, 3)


def test_a_copy_computes_the_same() -> None:
    assert_equal(copy.deepcopy(CROSSED)(P, X), in_torch(P, X))


def write_in_place(x: Tensor) -> Tensor:
    x[0].mul_(2)
    return x.sum()


COUNTER = torch.zeros(())


def count_calls(x: Tensor) -> Tensor:
    COUNTER.add_(1)
    return x + 1


KEPT: list = []


def keep(x: Any) -> Any:
    KEPT.append(x)
    return KEPT[0] * 2


ONES = torch.ones(2)
REFUSED_IN_TORCH: dict[str, tuple[Callable, tuple, str]] = {
    "branch": (lambda x: x if x.sum() > 0 else -x, (ONES,), "needs the numbers of an argument.*jnp.where"),
    "shape": (lambda x: jnp.zeros(int(x[0])), (ONES,), "needs the numbers of an argument"),
    "mask": (lambda x: x[x > 0], (ONES,), "needs the numbers of an argument"),
    "numpy": (lambda x: np.sin(np.asarray(x)), (ONES,), "needs the numbers of an argument.*jax.numpy"),
    "int64": (lambda x: x, (torch.arange(2),), "argument '0' is int64.*cut to int32"),
    "float4": (lambda x: x, (torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),), "JAX has not"),
    "array": (lambda x: x, ({"a": [jnp.ones(2)]},), "argument '0/a/0' is a .*Array.*to_torch"),
    "result": (lambda x: {"a": "text"}, (ONES,), "returns a str; expected arrays"),
    "int4": (lambda x: x.astype(jnp.int4), (ONES,), "returns int4, which torch has not"),
    "typed key": (lambda x: jax.random.key(0), (ONES,), "returns key<fry>.*key_data"),
    "sparse": (lambda x: x, (ONES.to_sparse(),), "sparse"),
}


@pytest.mark.parametrize("name", REFUSED_IN_TORCH)
def test_bad_jax_functions_are_refused_in_a_sentence(name: str) -> None:
    function, arguments, words = REFUSED_IN_TORCH[name]
    with pytest.raises((TypeError, ValueError), match=rf"^jax_fn_in_torch: .*{words}") as error:
        jax_fn_in_torch(function)(*arguments)
    assert "\n" not in str(error.value)


def test_a_side_effect_is_refused() -> None:
    with pytest.raises(TypeError, match="keep has a side effect"):
        jax_fn_in_torch(keep)(ONES)


def test_a_graph_without_its_function_says_so() -> None:
    graph = make_fx(jax_fn_in_torch(lambda x: x + 1), tracing_mode="fake")(ONES)
    with pytest.raises(RuntimeError, match="is gone; keep the function"):
        graph(ONES)


REFUSED_IN_JAX: dict[str, tuple[Callable, str]] = {
    "branch": (lambda x: x if x.sum() > 0 else -x, "needs the numbers of an argument.*torch.where"),
    "item": (lambda x: x * x.sum().item(), "needs the numbers of an argument"),
    "mask": (lambda x: x[x > 0], "needs the numbers of an argument"),
    "numpy": (lambda x: torch.from_numpy(x.numpy() * 2), "needs the numbers of an argument"),
    "in place": (write_in_place, "write_in_place writes into its argument '0'"),
    "side effect": (count_calls, "count_calls has a side effect.*aten.add_"),
    "random": (lambda x: torch.dropout(x, 0.5, True), "global generator.*pure.random"),
    "int64": (lambda x: x.argmax(), "a result is int64.*cut to int32.*x.to"),
}


@pytest.mark.parametrize("name", REFUSED_IN_JAX)
def test_bad_torch_functions_are_refused_in_a_sentence(name: str) -> None:
    function, words = REFUSED_IN_JAX[name]
    for run in (torch_fn_in_jax(function), jax.jit(torch_fn_in_jax(function))):
        with pytest.raises((TypeError, ValueError), match=rf"torch_fn_in_jax: .*{words}"):
            run(jnp.ones(2))
    assert COUNTER == 0


def test_shapes_that_do_not_fit_are_one_error(capfd: pytest.CaptureFixture) -> None:
    """With the line, and without torch's log of its run on fake tensors."""

    def product(x: torch.Tensor) -> torch.Tensor:
        return x @ torch.ones(3, 2)

    for cross, name in ((lower, "lower"), (torch_fn_in_jax, "torch_fn_in_jax")):
        with pytest.raises(RuntimeError, match=rf"^{name}: .*test_functions.py:\d+, product: .*\[2, 4\]"):
            cross(product)(jnp.ones((2, 4)))
    assert "Traceback" not in capfd.readouterr().err


def test_arguments_that_torch_has_not_are_refused() -> None:
    with pytest.raises(TypeError, match=r"argument 'key' is a typed key.*key_data"):
        torch_fn_in_jax(lambda key: key)(key=jax.random.key(0))
    with pytest.raises(TypeError, match="argument '0' is int4, which torch has not"):
        torch_fn_in_jax(lambda x: x)(jnp.ones(2, jnp.int4))
    for convert in (jax_fn_in_torch, torch_fn_in_jax):
        with pytest.raises(TypeError, match="expected a"):
            inspect.unwrap(convert)("text")


def test_large_arrays_do_not_block_the_callback() -> None:
    """JAX's thread pool has few threads, and a callback that waits for JAX in it would wait for ever."""
    f = jax.jit(lambda x: torch_fn_in_jax(lambda x: x * 2)(x * 3).sum())
    assert f(jnp.ones(2**20)) == 6 * 2**20
