"""Mistakes that one makes in code: each takes a node of a syntax tree and gives what may stand in its place.

Pure. `list_operators` names them all.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

Operator: TypeAlias = Callable[[ast.AST], Iterator[ast.AST]]

MODULES = ("torch", "np", "numpy", "math", "F")
CONVERSIONS = (
    "to",
    "float",
    "double",
    "half",
    "bfloat16",
    "long",
    "int",
    "bool",
    "type_as",
    "astype",
    "upcast",
)
EXCHANGED: Mapping[str, str] = {
    "clamp_min": "clamp_max",
    "minimum": "maximum",
    "amin": "amax",
    "min": "max",
    "cummin": "cummax",
    "fmin": "fmax",
}
OTHER_NAME: Mapping[str, str] = {**EXCHANGED, **{new: old for old, new in EXCHANGED.items()}}

COMPARISONS: Mapping[type[ast.cmpop], ast.cmpop] = {
    ast.Lt: ast.LtE(),
    ast.LtE: ast.Lt(),
    ast.Gt: ast.GtE(),
    ast.GtE: ast.Gt(),
}
INVERSE: Mapping[type[ast.cmpop], ast.cmpop] = {
    ast.Eq: ast.NotEq(),
    ast.NotEq: ast.Eq(),
    ast.Is: ast.IsNot(),
    ast.IsNot: ast.Is(),
    ast.In: ast.NotIn(),
    ast.NotIn: ast.In(),
}
SUMS: Mapping[type[ast.operator], ast.operator] = {ast.Add: ast.Sub(), ast.Sub: ast.Add()}
PRODUCTS: Mapping[type[ast.operator], ast.operator] = {
    ast.Mult: ast.Div(),
    ast.Div: ast.Mult(),
    ast.FloorDiv: ast.Mod(),
    ast.Mod: ast.FloorDiv(),
}
BITS: Mapping[type[ast.operator], ast.operator] = {
    ast.BitAnd: ast.BitOr(),
    ast.BitOr: ast.BitAnd(),
    ast.BitXor: ast.BitOr(),
    ast.LShift: ast.RShift(),
    ast.RShift: ast.LShift(),
}


def list_operators(function: ast.FunctionDef) -> dict[str, Operator]:
    """Lists the kinds of mistakes for a function."""
    return {
        "eps": move_eps,
        "variance": change_correction,
        "mean": exchange_mean,
        "detach": drop_detach,
        "dtype": drop_conversion,
        "clip": turn_clip,
        "write": write_arguments(function),
        "keepdim": drop_keepdim,
        "exchange": exchange_elements,
        "negation": drop_negation,
        "comparison": loosen_comparison,
        "logic": exchange_logic,
        "sum": exchange_sum,
        "product": exchange_product,
        "constant": shift_constant,
        "slice": shift_slice,
        "skip": skip_statements(function),
        "inverse": invert_comparison,
        "keyword": drop_keyword,
        "items": leave_items,
        "separator": widen_separator,
        "assign": assign_anew,
        "handler": drop_handler,
        "unwrap": drop_call,
    }


def move_eps(node: ast.AST) -> Iterator[ast.AST]:
    """Moves eps out of a square root, or into it: sqrt(x + eps), sqrt(x) + eps."""
    if isinstance(node, ast.Call) and _name_call(node) in ("sqrt", "rsqrt"):
        operand = _find_operand(node)
        if isinstance(operand, ast.BinOp) and isinstance(operand.op, ast.Add):
            rest, eps = operand.left, operand.right
            rest, eps = (rest, eps) if _is_eps(eps) else (eps, rest)
            if _is_eps(eps):
                root = ast.BinOp(_call_on(node, rest, "sqrt"), ast.Add(), eps)
                is_inverse = _name_call(node) == "rsqrt"
                yield ast.BinOp(ast.Constant(1), ast.Div(), root) if is_inverse else root
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and _is_eps(node.right):
        call = node.left
        if isinstance(call, ast.Call) and _name_call(call) == "sqrt" and (operand := _find_operand(call)):
            yield _call_on(call, ast.BinOp(operand, ast.Add(), node.right), "sqrt")


def change_correction(node: ast.AST) -> Iterator[ast.AST]:
    """Exchanges the biased and the unbiased variance."""
    if not isinstance(node, ast.Call) or _name_call(node) not in ("var", "std", "var_mean", "std_mean"):
        return
    given = [each for each in node.keywords if each.arg == "correction"]
    is_biased = bool(given) and isinstance(given[0].value, ast.Constant) and given[0].value.value == 0
    changed = ast.keyword("correction", ast.Constant(1 if is_biased else 0))
    yield _with(node, keywords=[*(each for each in node.keywords if each not in given), changed])


def exchange_mean(node: ast.AST) -> Iterator[ast.AST]:
    """Exchanges mean and sum."""
    if (
        isinstance(node, ast.Call)
        and _name_call(node) in ("mean", "sum")
        and isinstance(node.func, ast.Attribute)
    ):
        yield _with(node, func=_with(node.func, attr="sum" if node.func.attr == "mean" else "mean"))


def drop_detach(node: ast.AST) -> Iterator[ast.AST]:
    """Leaves out detach()."""
    if isinstance(node, ast.Call) and _name_call(node) == "detach" and (operand := _find_operand(node)):
        yield operand


def drop_conversion(node: ast.AST) -> Iterator[ast.AST]:
    """Leaves out a conversion to another dtype, or the argument `dtype`."""
    if not isinstance(node, ast.Call):
        return
    if _name_call(node) in CONVERSIONS and (operand := _find_operand(node)):
        yield operand
    kept = [each for each in node.keywords if each.arg != "dtype"]
    if len(kept) < len(node.keywords):
        yield _with(node, keywords=kept)


def turn_clip(node: ast.AST) -> Iterator[ast.AST]:
    """Exchanges minimum and maximum, or turns the sign of a bound."""
    if not isinstance(node, ast.Call):
        return
    name = _name_call(node)
    if name in OTHER_NAME:
        func: ast.expr
        if isinstance(node.func, ast.Attribute):
            func = _with(node.func, attr=OTHER_NAME[name])
        else:
            func = ast.Name(OTHER_NAME[name], ast.Load())
        yield _with(node, func=func)
    if name not in ("clamp", "clip", "clamp_"):
        return
    names = {"min": "max", "max": "min"}
    turned = [ast.keyword(names.get(each.arg or "", each.arg), each.value) for each in node.keywords]
    yield _with(node, keywords=turned, args=[*node.args[:-2], *reversed(node.args[-2:])])
    for index, keyword in enumerate(node.keywords):
        negated = ast.keyword(keyword.arg, ast.UnaryOp(ast.USub(), keyword.value))
        yield _with(node, keywords=[*node.keywords[:index], negated, *node.keywords[index + 1 :]])


def drop_keepdim(node: ast.AST) -> Iterator[ast.AST]:
    """Leaves out the argument `keepdim`."""
    if isinstance(node, ast.Call):
        kept = [each for each in node.keywords if each.arg not in ("keepdim", "keepdims")]
        if len(kept) < len(node.keywords):
            yield _with(node, keywords=kept)


def exchange_elements(node: ast.AST) -> Iterator[ast.AST]:
    """Exchanges neighbours in a tuple that is returned or yielded, and the two values of `where`."""
    if isinstance(node, ast.Return | ast.Yield) and isinstance(node.value, ast.Tuple):
        elements = node.value.elts
        for index in range(len(elements) - 1):
            swapped = [*elements[:index], elements[index + 1], elements[index], *elements[index + 2 :]]
            yield _with(node, value=ast.Tuple(swapped, ast.Load()))
    if isinstance(node, ast.Call) and _name_call(node) == "where" and len(node.args) >= 2:
        yield _with(node, args=[*node.args[:-2], *reversed(node.args[-2:])])


def drop_negation(node: ast.AST) -> Iterator[ast.AST]:
    """Leaves out a minus, `not` or `~`."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield node.operand
    if isinstance(node, ast.Call) and _name_call(node) == "neg" and (operand := _find_operand(node)):
        yield operand


def loosen_comparison(node: ast.AST) -> Iterator[ast.AST]:
    """Exchanges < and <=, > and >=."""
    yield from _exchange_comparisons(node, COMPARISONS)


def invert_comparison(node: ast.AST) -> Iterator[ast.AST]:
    """Inverts ==, `is` and `in`."""
    yield from _exchange_comparisons(node, INVERSE)


def exchange_logic(node: ast.AST) -> Iterator[ast.AST]:
    """Exchanges `and` and `or`, & and |; makes ^ to |; turns a shift of bits."""
    if isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
    yield from _exchange_operation(node, BITS)


def exchange_sum(node: ast.AST) -> Iterator[ast.AST]:
    """Exchanges + and -."""
    yield from _exchange_operation(node, SUMS)


def exchange_product(node: ast.AST) -> Iterator[ast.AST]:
    """Exchanges * and /, // and %."""
    yield from _exchange_operation(node, PRODUCTS)


def shift_constant(node: ast.AST) -> Iterator[ast.AST]:
    """Adds one to a number; exchanges True and False."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)


def shift_slice(node: ast.AST) -> Iterator[ast.AST]:
    """Moves an end of a slice, and the end of a range, by one."""
    if isinstance(node, ast.Slice):
        for name in ("lower", "upper"):
            bound = getattr(node, name)
            if bound is not None and not isinstance(bound, ast.Constant):
                yield _with(node, **{name: ast.BinOp(bound, ast.Add(), ast.Constant(1))})
        if node.lower is None and node.step is None:
            yield _with(node, lower=ast.Constant(1))
    if isinstance(node, ast.Call) and _name_call(node) in ("range", "arange") and node.args:
        place = min(len(node.args) - 1, 1)
        fewer = ast.BinOp(node.args[place], ast.Sub(), ast.Constant(1))
        yield _with(node, args=[*node.args[:place], fewer, *node.args[place + 1 :]])


def write_arguments(function: ast.FunctionDef) -> Operator:
    """Returns the operator that overwrites an argument, after the result has been computed.

    A name that the function binds anew may be no argument any more, and is left.
    """
    bound = {x.id for x in ast.walk(function) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
    parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    writes: list[str] = []
    for each in (each for each in parameters if each.arg not in bound):
        annotation = ast.unparse(each.annotation) if each.annotation is not None else ""
        if "Tensor" in annotation and not annotation.startswith(("Sequence", "tuple", "Callable", "Mapping")):
            writes.append(f"{each.arg}.zero_()")
        elif annotation.startswith(("list[", "dict[", "set[")):
            writes.append(f"{each.arg}.clear()")
        elif "ndarray" in annotation or "NDArray" in annotation:
            writes.append(f"{each.arg}.fill(0)")

    def write(node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.Return) and node.value is not None:
            for text in writes:
                change = ast.parse(text, mode="eval").body
                both = ast.Tuple([node.value, change], ast.Load())
                yield ast.Return(ast.Subscript(both, ast.Constant(0), ast.Load()))

    return write


def skip_statements(function: ast.FunctionDef) -> Operator:
    """Returns the operator that leaves out a statement, unless a name would then be missing."""
    arguments = {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}
    first: dict[str, int] = {}
    for each in ast.walk(function):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            first[each.id] = min(first.get(each.id, each.lineno), each.lineno)

    def skip(node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.If | ast.AugAssign | ast.Expr | ast.Break | ast.Continue | ast.Assert):
            yield ast.Pass()
        elif isinstance(node, ast.Assign):
            names = [x for x in ast.walk(ast.Tuple(node.targets, ast.Store())) if isinstance(x, ast.Name)]
            stored = [x for x in names if isinstance(x.ctx, ast.Store)]
            if all(x.id in arguments or first[x.id] < node.lineno for x in stored):
                yield ast.Pass()

    return skip


def drop_keyword(node: ast.AST) -> Iterator[ast.AST]:
    """Leaves out an argument that is given by name."""
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            yield _with(node, keywords=[each for each in node.keywords if each is not keyword])


def leave_items(node: ast.AST) -> Iterator[ast.AST]:
    """Loops over all items but the first, and over all from the last to the first."""
    if isinstance(node, ast.For | ast.comprehension):
        for bounds in ("1:", "::-1"):
            index = ast.parse(f"x[{bounds}]", mode="eval").body
            items = ast.Call(ast.Name("list", ast.Load()), [node.iter], [])
            yield _with(node, iter=_with(index, value=items))


def widen_separator(node: ast.AST) -> Iterator[ast.AST]:
    """Joins with a blank where nothing stands between."""
    if isinstance(node, ast.Constant) and node.value in ("", b""):
        yield ast.Constant(" " if node.value == "" else b" ")


def assign_anew(node: ast.AST) -> Iterator[ast.AST]:
    """Assigns what should be added to a name or an item."""
    if isinstance(node, ast.AugAssign):
        yield ast.Assign([node.target], node.value)


def drop_handler(node: ast.AST) -> Iterator[ast.AST]:
    """Handles no error."""
    if isinstance(node, ast.Try):
        yield ast.If(ast.Constant(True), node.body, [])


def drop_call(node: ast.AST) -> Iterator[ast.AST]:
    """Puts what a call works on, or its last argument, in the call's place."""
    if isinstance(node, ast.Call):
        for operand in dict.fromkeys([_find_operand(node), *node.args[-1:]]):
            if operand is not None and not isinstance(operand, ast.Starred):
                yield operand


def _exchange_comparisons(node: ast.AST, table: Mapping[type[ast.cmpop], ast.cmpop]) -> Iterator[ast.AST]:
    """A comparison with each of its operators exchanged."""
    if isinstance(node, ast.Compare):
        for index, op in enumerate(node.ops):
            if type(op) in table:
                yield _with(node, ops=[*node.ops[:index], table[type(op)], *node.ops[index + 1 :]])


def _exchange_operation(node: ast.AST, table: Mapping[type[ast.operator], ast.operator]) -> Iterator[ast.AST]:
    """An operation, alone or in an assignment, with another operator."""
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in table:
        yield _with(node, op=table[type(node.op)])


def _with(node: ast.AST, **fields: object) -> ast.expr:
    """A copy of a node with other fields; what is below it is shared."""
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})  # type: ignore[return-value]


def _name_call(node: ast.Call) -> str:
    """Name of the function or method that is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is_method(node: ast.Call) -> bool:
    """Tells if a call is of a method, x.sqrt(), not of a module's function, torch.sqrt(x)."""
    if not isinstance(node.func, ast.Attribute):
        return False
    return not (isinstance(node.func.value, ast.Name) and node.func.value.id in MODULES)


def _find_operand(node: ast.Call) -> ast.expr | None:
    """What a call works on: x in x.sqrt() and in torch.sqrt(x)."""
    if _is_method(node) and isinstance(node.func, ast.Attribute):
        return node.func.value
    return node.args[0] if node.args else None


def _call_on(node: ast.Call, operand: ast.expr, name: str) -> ast.Call:
    """The call of a function of this name on another operand."""
    if _is_method(node):
        return ast.Call(ast.Attribute(operand, name, ast.Load()), node.args, node.keywords)
    func = _with(node.func, attr=name) if isinstance(node.func, ast.Attribute) else ast.Name(name, ast.Load())
    return ast.Call(func, [operand, *node.args[1:]], node.keywords)


def _is_eps(node: ast.expr) -> bool:
    """Tells if an expression is a small number by its name or value."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, float) and 0 < node.value < 1e-2
    return isinstance(node, ast.Name | ast.Attribute) and "eps" in ast.unparse(node).lower()
