"""A mode of torch that sees every use of a parameter: products, lookups, elementwise operations.

Shape letters: B examples, R rows of the model's input, T tokens, I input width, O output width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pure.transform.example_rows import Rows, UnknownUseError, by_row, rows_each

Receive = Callable[[int, list["Use"], Tensor], None]
"""Called in the backward pass for each use of a matrix: (its number, all uses, d [R, ..., O])."""

READS = frozenset([
    "shape", "dtype", "device", "ndim", "requires_grad", "is_leaf", "layout", "itemsize", "is_cuda",
    "is_meta", "grad_fn", "size", "dim", "numel", "stride", "element_size", "is_floating_point", "is_complex",
    "is_contiguous", "__len__", "detach", "data", "__repr__", "__hash__", "zeros_like", "ones_like",
    "empty_like", "new_zeros", "new_ones", "new_empty", "new_full",
])  # fmt: skip
"""Operations through which no gradient flows to their argument."""

CASTS = frozenset(["to", "float", "double", "half", "bfloat16", "type", "type_as", "contiguous", "clone"])
TRANSPOSES = frozenset(["t", "T", "mT", "transpose", "swapaxes"])
ELEMENTWISE = frozenset([
    "mul", "multiply", "add", "sub", "subtract", "__rsub__", "div", "divide", "true_divide", "__rdiv__",
])  # fmt: skip


class Use(NamedTuple):
    """One product or lookup of a matrix.

    Fields:
        leaf: index of the matrix among the params' leaves.
        inputs: x [R, ..., I]; or tokens [R, ...] integers, of a lookup.
        factor: number that the matrix was multiplied with before (the scale of an adapter).
        swapped: the leaf is [I, O], and y = x W.
    """

    leaf: int
    inputs: Tensor
    factor: float | Tensor
    swapped: bool

    @property
    def is_lookup(self) -> bool:
        """Reports if it is a lookup of rows."""
        return not self.inputs.is_floating_point()


class Param(NamedTuple):
    """A tensor that is a leaf of the params, or computed from one alone.

    Fields:
        tensor: kept, so that its id stays its own.
        leaf: index of the leaf.
        factor, swapped: of a matrix, see `Use`.
    """

    tensor: Tensor
    leaf: int
    factor: float | Tensor = 1.0
    swapped: bool = False


class Copies(NamedTuple):
    """A vector with one copy per example: the value, computed from a leaf, and its copies [B, ...]."""

    leaf: int
    value: Tensor
    copies: Tensor


class Recorder(TorchFunctionMode):
    """Sees every operation of torch, and records those that take a param."""

    def __init__(self, leaves: list[Tensor], rows: Rows, receive: Receive) -> None:
        super().__init__()
        self.params = {id(x): Param(x, i) for i, x in enumerate(leaves)}
        self.rows = rows
        self.uses: list[Use] = []
        self.taps: dict[int, Tensor] = {}  # outputs that depend on nothing that requires grad, by use
        self.copies: list[Copies] = []
        self.inputs: dict[tuple, Tensor] = {}  # detached inputs, so that those of q, k and v are one tensor
        self.receive = receive

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = [p for x in _arguments(args, kwargs) if (p := self.params.get(id(x))) is not None]
        if not found:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(func.__self__, "__name__", "")  # type: ignore[attr-defined]
        if name in READS or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        return self._use(name, func, args, kwargs, found)

    def _use(self, name: str, func: Callable, args: tuple, kwargs: dict, found: list[Param]) -> Any:
        """Computes an operation on params, and records it."""
        if name == "linear":
            return self._linear(*_bind(("input", "weight", "bias"), args, kwargs))
        if name in ("layer_norm", "rms_norm"):
            return self._norm(
                func, *_bind(("input", "normalized_shape", "weight", "bias", "eps"), args, kwargs)
            )
        if name == "embedding":
            return self._lookup(func, args, kwargs)
        if len(found) == 1 and found[0].tensor.ndim == 2:
            return self._matrix(name, func, args, kwargs, found[0])
        if len(found) == 1 and found[0].tensor.ndim < 2:
            return self._vector(name, func, args, kwargs, found[0])
        shapes = ", ".join(str(list(p.tensor.shape)) for p in found)
        raise UnknownUseError(f"{name} of params {shapes}")

    def _matrix(self, name: str, func: Callable, args: tuple, kwargs: dict, param: Param) -> Tensor:
        """A cast, a transpose or a multiple of a matrix; or a product with it."""
        others = [x for x in _arguments(args, kwargs) if isinstance(x, Tensor) and x is not param.tensor]
        is_scalar = all(x.ndim == 0 and not x.requires_grad for x in others)
        if name in CASTS:
            return self._derive(func(*args, **kwargs), param)
        if name in TRANSPOSES:
            return self._derive(func(*args, **kwargs), param._replace(swapped=not param.swapped))
        if name in ("mul", "multiply") and is_scalar:
            factor = next(x for x in (*args, *kwargs.values()) if x is not param.tensor)
            return self._derive(func(*args, **kwargs), param._replace(factor=param.factor * factor))
        if name in ("matmul", "__matmul__") and len(args) == 2 and args[1] is param.tensor:
            return self._product(args[0], param._replace(swapped=not param.swapped), args[1].detach().T)
        raise UnknownUseError(f"{name} of a param {list(param.tensor.shape)}")

    def _vector(self, name: str, func: Callable, args: tuple, kwargs: dict, param: Param) -> Any:
        """An elementwise operation of a vector with the model's states; or another vector, from it alone."""
        others = [x for x in _arguments(args, kwargs) if isinstance(x, Tensor) and x is not param.tensor]
        if all(x.ndim <= param.tensor.ndim and not x.requires_grad for x in others):
            result = func(*args, **kwargs)
            if not isinstance(result, Tensor) or result.shape != param.tensor.shape:
                raise UnknownUseError(f"{name} of a param {list(param.tensor.shape)}")
            return self._derive(result, param)
        if name in ELEMENTWISE and len(others) == 1 and others[0].ndim > param.tensor.ndim:
            copies = self._copy(param, others[0])
            return func(*(copies if x is param.tensor else x for x in args), **kwargs)
        raise UnknownUseError(f"{name} of a param {list(param.tensor.shape)}")

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x Wᵀ + b, of which one or both are params."""
        param, bias_param = self.params.get(id(weight)), self.params.get(id(bias))
        if id(x) in self.params or weight.ndim != 2:
            raise UnknownUseError(f"linear of a param {list(x.shape)}")
        if param is None:
            y = F.linear(x, weight, None if bias_param else bias)
        else:
            y = self._product(x, param, weight.detach())
            if bias is not None and bias_param is None:
                y = y + bias
        return y if bias_param is None else y + self._copy(bias_param, y)

    def _norm(
        self,
        func: Callable,
        x: Tensor,
        shape: Any,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float | None,
    ) -> Tensor:
        """torch's own norms, without their scale and bias, which are applied after them."""
        options = {} if eps is None else {"eps": eps}
        y = func(x, shape, **options)
        for operation, vector in ((torch.mul, weight), (torch.add, bias)):
            if vector is not None:
                param = self.params.get(id(vector))
                if vector.ndim != 1 or id(x) in self.params:
                    raise UnknownUseError(f"a norm with a param {list(vector.shape)}")
                y = operation(y, vector if param is None else self._copy(param, y))
        return y

    def _lookup(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Rows of a table."""
        names = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
        tokens, weight, padding, max_norm, _, by_frequency, _ = _bind(names, args, kwargs)
        param = self.params.get(id(weight))
        if param is None or param.swapped or padding is not None or max_norm is not None or by_frequency:
            raise UnknownUseError("an embedding with padding_idx, max_norm or scale_grad_by_freq")
        if tokens.ndim < 2:
            raise UnknownUseError(f"an embedding of {list(tokens.shape)} tokens, without an axis of rows")
        tokens = self._with_rows(tokens)
        return self._tap(F.embedding(tokens, weight.detach()), Use(param.leaf, tokens, param.factor, False))

    def _product(self, x: Tensor, param: Param, weight: Tensor) -> Tensor:
        """x [R, ..., I] -> x Wᵀ; the weight is a constant, and the input is kept."""
        if id(x) in self.params or x.ndim < 2:
            raise UnknownUseError(f"a product of an input {list(x.shape)}, without an axis of rows")
        x = self._with_rows(x)
        identity = (x.data_ptr(), x.shape, x.stride(), x.dtype, x._version)
        inputs = self.inputs.setdefault(identity, x.detach())
        return self._tap(F.linear(x, weight), Use(param.leaf, inputs, param.factor, param.swapped))

    def _with_rows(self, x: Tensor) -> Tensor:
        """One row that serves all examples (positions [1, T]), as a row for each; refuses a wrong number."""
        if len(x) == 1:
            return x.expand(self.rows.examples, *x.shape[1:])
        rows_each(self.rows, len(x))
        return x

    def _tap(self, y: Tensor, use: Use) -> Tensor:
        """Registers a use, and the hook that receives the gradient of its output."""
        number = len(self.uses)
        self.uses.append(use)
        if y.requires_grad:
            y.register_hook(partial(self._receive, number))
        else:
            self.taps[number] = y.requires_grad_()
            y = y.clone()  # a leaf of autograd refuses operations in place, such as h *= scale
        return y

    def _receive(self, number: int, d: Tensor) -> None:
        """The hook of an output."""
        self.receive(number, self.uses, d)

    def _copy(self, param: Param, like: Tensor) -> Tensor:
        """Copies of a vector for each row of states [R, ..., D]: [R, 1, ..., D]."""
        vector, count = param.tensor.detach(), self.rows.examples
        copies = vector.expand(count, *vector.shape).requires_grad_()
        self.copies.append(Copies(param.leaf, param.tensor, copies))
        spread = copies if len(like) == 1 else by_row(self.rows, copies, len(like))
        return spread.view(len(spread), *[1] * (like.ndim - 1 - vector.ndim), *vector.shape)

    def _derive(self, tensor: Tensor, param: Param) -> Tensor:
        """Registers a tensor that was computed from a param alone."""
        if tensor is not param.tensor:
            self.params[id(tensor)] = param._replace(tensor=tensor)
        return tensor


def _arguments(args: tuple, kwargs: dict) -> Iterator[Any]:
    """The arguments of a call, and the elements of lists among them."""
    for x in (*args, *kwargs.values()):
        if isinstance(x, list | tuple):
            yield from x
        else:
            yield x


def _bind(names: tuple[str, ...], args: tuple, kwargs: dict) -> list:
    """The arguments in the order of the names, None where one is missing."""
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(names)]
