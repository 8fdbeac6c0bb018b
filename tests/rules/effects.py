"""Rules on effects and state: who may touch the world, and that nothing else changes."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.rules.exceptions import IN_PLACE, ITEM, STATE, WORLD
from tests.rules.source import Function, Module, calls, functions, imports, under

# fmt: off
OUTSIDE = frozenset((
    "asyncio", "builtins", "concurrent", "ctypes", "datasets", "datetime", "fcntl", "fileinput", "getpass", "glob",
    "http", "logging", "mmap", "multiprocessing", "os", "pathlib", "pickle", "platform", "random", "requests",
    "secrets", "select", "shelve", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile",
    "threading", "time", "urllib", "uuid", "webbrowser", "zipfile",
))
EFFECTS = frozenset((
    "open", "io.open", "io.FileIO", "print", "input", "breakpoint", "exec", "eval", "torch.load", "torch.save",
    "torch.from_file", "np.load", "np.save", "np.fromfile", "np.memmap", "numpy.load", "numpy.save",
    "numpy.fromfile", "numpy.memmap",
))
CHANCE = frozenset((
    "torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.rand_like", "torch.randn_like",
    "torch.randint_like", "torch.normal", "torch.bernoulli", "torch.multinomial", "torch.dropout", "torch.manual_seed",
    "torch.seed",
))
CHANCE_METHODS = frozenset((
    "normal_", "uniform_", "bernoulli_", "exponential_", "random_", "log_normal_", "cauchy_", "geometric_",
    "multinomial", "dropout",
))
# fmt: on
READ_ONLY = ("Mapping", "Sequence", "Collection", "AbstractSet")
MAKERS = (
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
CACHES = ("cache", "lru_cache", "functools.cache", "functools.lru_cache")


def world(module: Module) -> Iterator[str]:
    """Only the named places touch files, the clock, the network or processes."""
    if under(module.name, *WORLD):
        return
    for found in imports(module):
        if found.module.split(".")[0] in OUTSIDE:
            yield f"{module.path}:{found.line}: imports {found.module}; that is for {', '.join(WORLD)}"
    for node in calls(module):
        if ast.unparse(node.func) in EFFECTS:
            yield f"{module.path}:{node.lineno}: calls {ast.unparse(node.func)}; that is for {', '.join(WORLD)}"


def chance(module: Module) -> Iterator[str]:
    """Randomness takes a key (`pure.random`): nobody draws from a global generator."""
    for node in calls(module):
        name = ast.unparse(node.func)
        method = isinstance(node.func, ast.Attribute) and node.func.attr in CHANCE_METHODS
        if name in CHANCE or name.startswith(("np.random.", "numpy.random.")) or method:
            yield f"{module.path}:{node.lineno}: {name} draws from a global generator; take a key and use pure.random"


def switches(module: Module) -> Iterator[str]:
    """No global switch of torch is set."""
    for node in ast.walk(module.tree):
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if isinstance(target, ast.Attribute) and ast.unparse(target).startswith("torch."):
                yield f"{module.path}:{node.lineno}: sets {ast.unparse(target)} for the whole process"
    for node in calls(module):
        name = ast.unparse(node.func)
        if name.startswith("torch.set_") or name == "torch.use_deterministic_algorithms":
            yield f"{module.path}:{node.lineno}: {name} sets a switch for the whole process"


def no_global(module: Module) -> Iterator[str]:
    """No `global` statement."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield f"{module.path}:{node.lineno}: global {', '.join(node.names)}"


def module_state(module: Module) -> Iterator[str]:
    """Nothing at module or class level can change.

    A list, dict or set there is annotated with a type that has no method to change it (Mapping, Sequence,
    Collection, AbstractSet), so that the type checker refuses a change wherever the name goes. A cache is
    state too.
    """
    bodies = [
        module.tree.body,
        *(node.body for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)),
    ]
    for node in (node for body in bodies for node in body if isinstance(node, ast.Assign | ast.AnnAssign)):
        name = ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
        kind = (
            ast.unparse(node.annotation).split("[")[0].split(".")[-1]
            if isinstance(node, ast.AnnAssign)
            else ""
        )
        allowed = name == "__all__" or kind in READ_ONLY or f"{module.name}.{name}" in STATE
        if not allowed and _mutable(node.value):
            yield f"{module.path}:{node.lineno}: {name} can change; annotate it as a Mapping or a Sequence"
    for name, function in functions(module.tree):
        cached = any(ast.unparse(d).split("(")[0] in CACHES for d in function.decorator_list)
        if cached and f"{module.name}.{name}" not in STATE:
            yield f"{module.path}:{function.lineno}: {name} keeps a cache in the module"


def no_item(module: Module) -> Iterator[str]:
    """No `.item()` or `.tolist()` where a step may be compiled or vmapped."""
    for name, function in _pure_functions(module, ITEM):
        for node in ast.walk(function):
            method = (
                node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            )
            if method in ("item", "tolist"):
                yield f"{module.path}:{node.lineno}: .{method}() in {name}"


def no_write_to_arguments(module: Module) -> Iterator[str]:
    """Functions of `pure` and the pure stages never write into an argument."""
    for name, function in _pure_functions(module, IN_PLACE):
        arguments = _tensors(function) - _rebound(function)
        for node in ast.walk(function):
            if (target := _written(node)) in arguments:
                yield f"{module.path}:{getattr(node, 'lineno', 0)}: {name} writes into its argument {target}"


def _pure_functions(module: Module, excepted: object) -> Iterator[tuple[str, ast.AST]]:
    """The functions of pure and of the pure stages, without those excepted."""
    if not under(module.name, *WORLD, "data_pipes"):
        for name, function in functions(module.tree):
            if f"{module.name}.{name}" not in excepted:  # type: ignore[operator]
                yield name, function


def _mutable(value: ast.expr | None) -> bool:
    """A display or a comprehension of a list, dict or set, or the call of a class that makes one."""
    if isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp):
        return True
    return isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in MAKERS


def _tensors(function: ast.AST) -> set[str]:
    """Parameters which can be tensors or trees: not self, an autograd Function's ctx, plain numbers and
    texts."""
    assert isinstance(function, Function)
    plain = ("int", "float", "str", "bool")
    every = [node for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    typed = {p.arg for p in every if p.annotation is None or ast.unparse(p.annotation) not in plain}
    return typed - {"self", "cls", "ctx"}


def _rebound(function: ast.AST) -> set[str]:
    """Names that the function binds itself, other than by `+=`, so that they need not be its argument any
    more."""
    targets = [node.target for node in ast.walk(function) if isinstance(node, ast.AugAssign)]
    stored = [
        node for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    return {node.id for node in stored if node not in targets}


def _written(node: ast.AST) -> str | None:
    """The name `x` in `x.copy_(...)`, `x[...] = ...`, `x.a = ...` and `x += ...`."""
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
