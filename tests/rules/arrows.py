"""Rules on imports: their direction between packages, JAX at the border, and what an __init__ exports.

Each rule yields one line for each violation in a module.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from tests.rules.source import PACKAGES, PROGRAMS, ROOT, Module, bound_names, imports, is_under, nodes

PEERS = ("jax", "jaxlib", "flax", "optax", "orbax")
BORDER = ("stages.checkpoint.orbax", "stages.run")
"""Modules whose functions may import jax and its libraries: Orbax checkpoints, and runs computed by JAX."""
LAW_TABLES: Mapping[str, str] = {
    "benchmarks.outside": "tests.outside",
    "benchmarks.transforms": "tests.laws.test_transforms",
}
"""Benchmark -> the tests that hold the table which it counts."""
HIDDEN = re.compile(r"if not TYPE_CHECKING:\n    from [\w.]+ import __getattr__")
"""The only statement of an __init__ that type checkers do not see."""
STAGES_LEVELS: Mapping[str, int] = {
    "stages.sandbox": 0,
    "stages": 1,  # the stages themselves, pure like all they import
    "stages.checkpoint": 2,
    "stages.models": 3,
    "stages.run": 4,
    "stages.evaluate": 5,
    "stages.serve": 5,
    "stages.report": 5,
    "stages.card": 5,
    "stages.teach": 6,
    "stages.cli": 7,
}
"""Group of modules in `stages` -> its level. A group imports only from its own level or a lower one."""


def import_direction(module: Module) -> Iterator[str]:
    """Imports go in one direction: programs -> stages -> data_pipes -> pure. Benchmarks that count the
    rows of a law import its table (`LAW_TABLES`), and nothing else imports from tests."""
    level = {name: PACKAGES.index(name) for name in PACKAGES} | dict.fromkeys(PROGRAMS, len(PACKAGES))
    for imported in imports(module):
        package = _top_package(imported.module)
        upward = level.get(package, -1) > level[_top_package(module.name)]
        allowed = is_under(imported.module, LAW_TABLES.get(module.name, module.name))
        if upward or (package in ("tests", "examples") and not allowed):
            yield f"{module.path}:{imported.line}: {module.name} imports {imported.module}"


def import_direction_inside_pure(module: Module) -> Iterator[str]:
    """nn, loss and optim never import each other; types imports nothing local; a loss never imports Model."""
    independent = ("pure.nn", "pure.loss", "pure.optim")
    forbidden: list[str] = []
    if is_under(module.name, *independent):
        forbidden = [package for package in independent if not is_under(module.name, package)]
    for imported in imports(module):
        place = f"{module.path}:{imported.line}"
        if is_under(imported.module, *forbidden):
            yield f"{place}: {module.name} imports {imported.module}"
        if module.name == "pure.types" and _top_package(imported.module) in PACKAGES:
            yield f"{place}: pure.types imports {imported.module}, and it imports nothing local"
        if is_under(module.name, "pure.loss") and (imported.module, imported.name) == ("pure.types", "Model"):
            yield f"{place}: a loss takes log-probabilities, logits or hidden states, never a Model"


def jax_only_at_the_border(module: Module) -> Iterator[str]:
    """pure/interop/jax imports jax and its libraries. Nothing else does, except functions of `BORDER`, and
    functions that import pure.interop.jax where they need it."""
    if is_under(module.name, "pure.interop.jax"):
        return
    for imported in imports(module):
        place = f"{module.path}:{imported.line}"
        is_border = is_under(imported.module, "pure.interop.jax")
        if is_border and not (imported.inside and is_under(module.name, "stages")):
            yield f"{place}: import pure.interop.jax in stages, inside the function using it"
        is_jax = _top_package(imported.module) in PEERS
        if is_jax and not (imported.inside and is_under(module.name, *BORDER)):
            yield f"{place}: import {imported.module} in pure/interop/jax"


def import_direction_inside_stages(module: Module) -> Iterator[str]:
    """A group of `stages` imports from its own and lower levels only, and the sandbox only from itself."""
    if not is_under(module.name, "stages"):
        return
    group = _group(module.name)
    for imported in imports(module):
        imported_group = _group(imported.module) if is_under(imported.module, "stages") else ""
        upward = imported_group and STAGES_LEVELS[imported_group] > STAGES_LEVELS[group]
        leaves_sandbox = group == "stages.sandbox" and imported_group != "stages.sandbox"
        foreign = leaves_sandbox and _top_package(imported.module) in PACKAGES
        if upward or foreign:
            yield f"{module.path}:{imported.line}: {module.name} imports {imported.module}"


def runtime_imports(module: Module) -> set[str]:
    """Return the project's modules that a module imports at runtime: not those under `if TYPE_CHECKING`."""
    type_checking_lines = {
        line
        for node in nodes(module.tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    names = {imported.module for imported in imports(module) if imported.line not in type_checking_lines}
    return {name for name in names if _top_package(name) in PACKAGES and name != module.name}


def no_import_from_own_init(module: Module) -> Iterator[str]:
    """Code inside a package never imports from that package's own __init__, which is for other packages."""
    home = module.name if module.package else module.name.rpartition(".")[0]
    for imported in imports(module):
        package = (ROOT / imported.module.replace(".", "/") / "__init__.py").is_file()
        if imported.name and package and is_under(home, imported.module):
            fix = f"import {imported.name} from the module that defines it, not {imported.module}"
            yield f"{module.path}:{imported.line}: {fix}"


def init_only_exports(module: Module) -> Iterator[str]:
    """An __init__ holds a docstring, imports of public names, and __all__, which lists exactly these. Two
    more things are allowed: `try: import`, to say what to install, and an imported `__getattr__`, whose error
    for a name of another library says what to write instead; type checkers, which would then know no missing
    name, do not see it."""
    if not module.package:
        return
    imported_names = bound_names(module) - {"annotations", "__all__", "__getattr__", "TYPE_CHECKING"}
    listed: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            listed = set(ast.literal_eval(node.value))
        elif not (
            isinstance(node, ast.ImportFrom)
            or (isinstance(node, ast.Expr) and ast.get_docstring(module.tree))
            or (isinstance(node, ast.Try) and [type(x) for x in node.body] == [ast.Import])
            or (isinstance(node, ast.If) and HIDDEN.fullmatch(ast.unparse(node)))
        ):
            yield f"{module.path}:{node.lineno}: only exports belong into an __init__"
    if different := sorted(listed ^ imported_names):
        yield f"{module.path}:1: __all__ and the imports differ in {', '.join(different)}"


def _group(name: str) -> str:
    """Return the group of a module: "stages.run" for "stages.run.loop", "stages" for "stages.dpo"."""
    group = ".".join(name.split(".")[:2])
    return group if group in STAGES_LEVELS else "stages"


def _top_package(name: str) -> str:
    return name.split(".")[0]
