"""Rules on imports: they run one way, and a package's __init__ is for others."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from tests.rules.source import PACKAGES, PROGRAMS, ROOT, Module, bound, imports, under

PEERS = ("jax", "jaxlib", "flax", "optax", "orbax")
BORDER = ("stages.checkpoint.orbax", "stages.run")
"""Where functions may import jax and its libraries: checkpoints that orbax writes, runs that JAX computes."""
LEVELS: Mapping[str, int] = {
    "stages.sandbox": 0,
    "stages": 1,  # the stages themselves, pure like all they import
    "stages.checkpoint": 2,
    "stages.models": 3,
    "stages.run": 4,
    "stages.evaluate": 5,
    "stages.cli": 6,
}
"""Group of `stages` -> its level; a group imports only from its own or a lower one."""


def arrows(module: Module) -> Iterator[str]:
    """Imports run one way: programs -> stages -> data_pipes -> pure. Of the tests only their table of outside
    forms is imported, by the benchmark that counts it."""
    level = {name: PACKAGES.index(name) for name in PACKAGES} | dict.fromkeys(PROGRAMS, len(PACKAGES))
    for found in imports(module):
        table = module.name == "benchmarks.outside" and under(found.module, "tests.outside")
        upward = level.get(_top(found.module), -1) > level[_top(module.name)]
        if upward or (_top(found.module) in ("tests", "examples") and not table):
            yield f"{module.path}:{found.line}: {module.name} imports {found.module}"


def arrows_inside_pure(module: Module) -> Iterator[str]:
    """nn, loss and optim never import each other; types imports nothing local; a loss never sees a Model."""
    apart = ("pure.nn", "pure.loss", "pure.optim")
    others = (
        [package for package in apart if not under(module.name, package)]
        if under(module.name, *apart)
        else []
    )
    for found in imports(module):
        if under(found.module, *others):
            yield f"{module.path}:{found.line}: {module.name} imports {found.module}"
        if module.name == "pure.types" and _top(found.module) in PACKAGES:
            yield f"{module.path}:{found.line}: pure.types imports {found.module}, and it imports nothing local"
        if under(module.name, "pure.loss") and (found.module, found.name) == ("pure.types", "Model"):
            yield f"{module.path}:{found.line}: a loss takes log-probabilities, logits or hidden states, never a Model"


def jax_stays_outside(module: Module) -> Iterator[str]:
    """pure/interop/jax imports jax and its libraries. Nothing else does, except functions of `BORDER`, and
    functions that import pure.interop.jax where they need it."""
    if under(module.name, "pure.interop.jax"):
        return
    for found in imports(module):
        ours = under(found.module, "pure.interop.jax")
        if ours and not (found.inside and under(module.name, "stages")):
            yield f"{module.path}:{found.line}: import pure.interop.jax in stages, inside the function using it"
        if _top(found.module) in PEERS and not (found.inside and under(module.name, *BORDER)):
            yield f"{module.path}:{found.line}: import {found.module} in pure/interop/jax"


def arrows_inside_stages(module: Module) -> Iterator[str]:
    """Groups of `stages` import from lower levels only; the sandbox imports nothing of the project but itself."""
    if not under(module.name, "stages"):
        return
    group = _group(module.name)
    for found in imports(module):
        other = _group(found.module) if under(found.module, "stages") else ""
        upward = other and LEVELS[other] > LEVELS[group]
        foreign = group == "stages.sandbox" != other and _top(found.module) in PACKAGES
        if upward or foreign:
            yield f"{module.path}:{found.line}: {module.name} imports {found.module}"


def imported(module: Module) -> set[str]:
    """Modules of the project that a module imports when it runs: not those under `if TYPE_CHECKING`."""
    for_checkers = {
        line
        for node in ast.walk(module.tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    every = {found.module for found in imports(module) if found.line not in for_checkers}
    return {name for name in every if _top(name) in PACKAGES and name != module.name}


def own_init(module: Module) -> Iterator[str]:
    """Code inside a package never goes through that package's own __init__, which exports to others."""
    home = module.name if module.package else module.name.rpartition(".")[0]
    for found in imports(module):
        package = (ROOT / found.module.replace(".", "/") / "__init__.py").is_file()
        if found.name and package and under(home, found.module):
            yield f"{module.path}:{found.line}: import {found.name} from the module that defines it, not {found.module}"


def exports(module: Module) -> Iterator[str]:
    """An __init__ holds a docstring, imports of public names, and __all__, which lists exactly these. It may
    first try an import, to say what to install, and import a `__getattr__`, which answers the names of another
    library that the package does not have."""
    if not module.package:
        return
    public = bound(module) - {"annotations", "__all__", "__getattr__"}
    listed: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            listed = set(ast.literal_eval(node.value))
        elif not (
            isinstance(node, ast.ImportFrom)
            or (isinstance(node, ast.Expr) and ast.get_docstring(module.tree))
            or (isinstance(node, ast.Try) and [type(x) for x in node.body] == [ast.Import])
        ):
            yield f"{module.path}:{node.lineno}: only exports belong into an __init__"
    if listed != public:
        yield f"{module.path}:1: __all__ and the imports differ in {', '.join(sorted(listed ^ public))}"


def _group(name: str) -> str:
    """The group of a module of `stages`: "stages.run" for "stages.run.loop", "stages" for "stages.dpo"."""
    group = ".".join(name.split(".")[:2])
    return group if group in LEVELS else "stages"


def _top(name: str) -> str:
    return name.split(".")[0]
