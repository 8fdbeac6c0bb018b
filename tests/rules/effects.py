"""Rules on effects and state: files, clock, network, processes only in listed modules; no mutable state."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.rules.exceptions import EFFECTS_ALLOWED, IN_PLACE, ITEM, STATE
from tests.rules.source import FUNCTION_NODES, Module, calls, functions, imports, is_under, nodes

# fmt: off
EFFECT_MODULES = frozenset((
    "asyncio", "builtins", "concurrent", "ctypes", "datasets", "datetime", "fcntl", "fileinput", "getpass", "glob",
    "http", "logging", "mmap", "multiprocessing", "os", "pathlib", "pickle", "platform", "random", "requests",
    "secrets", "select", "shelve", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile",
    "threading", "time", "urllib", "uuid", "webbrowser", "zipfile",
))
EFFECT_CALLS = frozenset((
    "open", "io.open", "io.FileIO", "print", "input", "breakpoint", "exec", "eval", "torch.load", "torch.save",
    "torch.from_file", "np.load", "np.save", "np.fromfile", "np.memmap", "numpy.load", "numpy.save",
    "numpy.fromfile", "numpy.memmap",
))
RANDOM_CALLS = frozenset((
    "torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.rand_like", "torch.randn_like",
    "torch.randint_like", "torch.normal", "torch.bernoulli", "torch.multinomial", "torch.dropout", "torch.manual_seed",
    "torch.seed",
))
RANDOM_METHODS = frozenset((
    "normal_", "uniform_", "bernoulli_", "exponential_", "random_", "log_normal_", "cauchy_", "geometric_",
    "multinomial", "dropout",
))
# fmt: on
READ_ONLY = ("Mapping", "Sequence", "Collection", "AbstractSet")
MUTABLE_TYPES = (
    "list",
    "dict",
    "set",
    "bytearray",
    "defaultdict",
    "deque",
    "Counter",
    "OrderedDict",
    "count",
    "local",
)
CACHE_DECORATORS = ("cache", "lru_cache", "functools.cache", "functools.lru_cache")


def effects_only_where_allowed(module: Module) -> Iterator[str]:
    """Only the modules of `EFFECTS_ALLOWED` touch files, the clock, the network or processes."""
    if not is_under(module.name, *EFFECTS_ALLOWED):
        yield from list_effects(module)


def list_effects(module: Module) -> Iterator[str]:
    """Yields what a module imports or calls that touches files, the clock, the network or processes."""
    allowed = ", ".join(EFFECTS_ALLOWED)
    for imported in imports(module):
        if imported.module.split(".")[0] in EFFECT_MODULES:
            yield f"{module.path}:{imported.line}: imports {imported.module}; that is for {allowed}"
    for node in calls(module):
        if ast.unparse(node.func) in EFFECT_CALLS:
            yield f"{module.path}:{node.lineno}: calls {ast.unparse(node.func)}; that is for {allowed}"


def no_global_random_generator(module: Module) -> Iterator[str]:
    """Randomness comes from a key (`pure.random`), never from a global generator."""
    for node in calls(module):
        name = ast.unparse(node.func)
        method = isinstance(node.func, ast.Attribute) and node.func.attr in RANDOM_METHODS
        if name in RANDOM_CALLS or name.startswith(("np.random.", "numpy.random.")) or method:
            yield f"{module.path}:{node.lineno}: {name} draws from a global generator; take a key and use pure.random"


def no_global_torch_setting(module: Module) -> Iterator[str]:
    """No global setting of torch is changed."""
    for node in nodes(module.tree):
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if isinstance(target, ast.Attribute) and ast.unparse(target).startswith("torch."):
                yield f"{module.path}:{node.lineno}: sets {ast.unparse(target)} for the whole process"
    for node in calls(module):
        name = ast.unparse(node.func)
        if name.startswith("torch.set_") or name == "torch.use_deterministic_algorithms":
            yield f"{module.path}:{node.lineno}: {name} sets a switch for the whole process"


def no_global_statement(module: Module) -> Iterator[str]:
    """No `global` statement."""
    for node in nodes(module.tree):
        if isinstance(node, ast.Global):
            yield f"{module.path}:{node.lineno}: global {', '.join(node.names)}"


def no_mutable_module_state(module: Module) -> Iterator[str]:
    """Nothing at module or class level is mutable.

    A list, dict or set there is annotated with a type that has no method to change it (Mapping, Sequence,
    Collection, AbstractSet), so that the type checker refuses a change wherever the name goes. A cache is
    state too.
    """
    bodies = [
        module.tree.body,
        *(node.body for node in nodes(module.tree) if isinstance(node, ast.ClassDef)),
    ]
    statements = [node for body in bodies for node in body]
    for node in statements:
        if isinstance(node, ast.AnnAssign):
            name = ast.unparse(node.target)
            annotated = ast.unparse(node.annotation).split("[")[0].split(".")[-1]
        elif isinstance(node, ast.Assign):
            name, annotated = ast.unparse(node.targets[0]), ""
        else:
            continue
        allowed = name == "__all__" or annotated in READ_ONLY or f"{module.name}.{name}" in STATE
        if not allowed and _is_mutable(node.value):
            yield f"{module.path}:{node.lineno}: {name} can change; annotate it as a Mapping or a Sequence"
    for name, function in functions(module.tree):
        cached = any(ast.unparse(d).split("(")[0] in CACHE_DECORATORS for d in function.decorator_list)
        if cached and f"{module.name}.{name}" not in STATE:
            yield f"{module.path}:{function.lineno}: {name} keeps a cache in the module"


def no_item_in_pure_functions(module: Module) -> Iterator[str]:
    """No `.item()` or `.tolist()` where a step may be compiled or vmapped."""
    for name, function in _pure_functions(module, ITEM):
        for node in ast.walk(function):
            called = (
                node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            )
            if called in ("item", "tolist"):
                yield f"{module.path}:{node.lineno}: .{called}() in {name}"


def no_write_to_arguments(module: Module) -> Iterator[str]:
    """Functions of `pure` and the pure stages never write into an argument."""
    for name, function in _pure_functions(module, IN_PLACE):
        arguments = _tensor_parameters(function) - _rebound_names(function)
        for node in ast.walk(function):
            if (target := _written_name(node)) in arguments:
                yield f"{module.path}:{getattr(node, 'lineno', 0)}: {name} writes into its argument {target}"


def _pure_functions(module: Module, excepted: object) -> Iterator[tuple[str, ast.AST]]:
    """Yield the functions of `pure` and of the pure stages, except those listed in `excepted`."""
    if not is_under(module.name, *EFFECTS_ALLOWED, "data_pipes"):
        for name, function in functions(module.tree):
            if f"{module.name}.{name}" not in excepted:  # type: ignore[operator]
                yield name, function


def _is_mutable(value: ast.expr | None) -> bool:
    """Tell whether a value is a list, dict or set (literal or comprehension), or a call of a mutable type."""
    if isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp):
        return True
    return isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in MUTABLE_TYPES


def _tensor_parameters(function: ast.AST) -> set[str]:
    """Return the parameters which can be tensors or trees: not self, an autograd Function's ctx, numbers or
    strings."""
    assert isinstance(function, FUNCTION_NODES)
    plain = ("int", "float", "str", "bool")
    every = [node for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    typed = {p.arg for p in every if p.annotation is None or ast.unparse(p.annotation) not in plain}
    return typed - {"self", "cls", "ctx"}


def _rebound_names(function: ast.AST) -> set[str]:
    """Return the names that a function assigns, other than by `+=`: they no longer mean its argument."""
    augmented = [node.target for node in ast.walk(function) if isinstance(node, ast.AugAssign)]
    assigned = [
        node for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    return {node.id for node in assigned if node not in augmented}


def _written_name(node: ast.AST) -> str | None:
    """Return the name `x` in `x.copy_(...)`, `x[...] = ...`, `x.a = ...` and `x += ...`."""
    target: ast.expr | None = None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        method = node.func.attr
        if method.endswith("_") and not method.endswith("__") and method != "requires_grad_":
            target = node.func.value
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript | ast.Attribute):
        target = node.targets[0].value
    elif isinstance(node, ast.AugAssign):
        target = node.target.value if isinstance(node.target, ast.Subscript | ast.Attribute) else node.target
    return target.id if isinstance(target, ast.Name) else None
