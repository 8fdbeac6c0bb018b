"""Measure the size and density of a source tree's packages, and the path from the command line to the loss.

For each package: files, lines, lines of code (without blank lines, comments and docstrings), statements,
conditional expressions and comprehensions per thousand lines of code, `fmt: skip`, functions of more than 50
lines of body, files of more than 300 lines.

Then `sft` and `grpo` each train for one step on a tiny model, in a child process that imports the tree's own
packages. A profile hook records the call stacks on which the stage is built, its data pipe is built, and its
loss is first called. The project's files on these stacks are what a reader opens to get from the command line
to the loss.

    python benchmarks/house.py [--root FOLDER]
"""

from __future__ import annotations

import argparse
import ast
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

PACKAGES = ("pure", "data_pipes", "stages", "examples", "benchmarks", "tests")
FUNCTION_LINES, FILE_LINES = 50, 300
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

PIPES: Mapping[str, str] = {"sft": "sft_pipe", "grpo": "prompt_pipe"}
"""Stage -> the function that builds its data pipe."""

CONFIG: Mapping[str, int] = {
    "vocab_size": 280,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}


class Size(NamedTuple):
    """Counts of one package or file, which may be summed over files.

    Fields:
        files: Python files.
        lines: all lines.
        code: lines of code, without blank lines, comments and docstrings.
        statements: without docstrings.
        conditionals: conditional expressions.
        comprehensions: generator expressions included.
        skips: `fmt: skip` comments.
        long_functions: functions of more than FUNCTION_LINES lines of body.
        long_files: files of more than FILE_LINES lines.
    """

    files: int
    lines: int
    code: int
    statements: int
    conditionals: int
    comprehensions: int
    skips: int
    long_functions: int
    long_files: int


class Stacks(NamedTuple):
    """The project's files on the call stacks of one run, outermost first.

    Fields:
        stage: when the stage is built.
        pipe: when its data pipe is built.
        loss: when its loss is first called.
    """

    stage: list[str]
    pipe: list[str]
    loss: list[str]


def measure_file(text: str) -> Size:
    """Count the source text of one file."""
    module = ast.parse(text)
    nodes = list(ast.walk(module))
    code = _code_lines(text) - _docstring_lines(nodes)
    bodies = [_body_lines(node, code) for node in nodes if isinstance(node, FUNCTIONS)]
    lines = text.count("\n")
    return Size(
        files=1,
        lines=lines,
        code=len(code),
        statements=sum(isinstance(node, ast.stmt) and not _is_docstring(node) for node in nodes),
        conditionals=sum(isinstance(node, ast.IfExp) for node in nodes),
        comprehensions=sum(isinstance(node, COMPREHENSIONS) for node in nodes),
        skips=text.count("# fmt: skip"),
        long_functions=sum(size > FUNCTION_LINES for size in bodies),
        long_files=int(lines > FILE_LINES),
    )


def measure_package(folder: Path) -> Size:
    """Sum the counts of a folder's files."""
    sizes = [measure_file(path.read_text("utf8")) for path in sorted(folder.rglob("*.py"))]
    return Size(*(sum(column) for column in zip(*sizes, strict=True)))


def record_stacks(root: Path, name: str, arguments: Sequence[str]) -> Stacks:
    """Run a subcommand in this process and record the three call stacks.

    Functions are recognised by name, so that older trees, with other modules, can be measured: the stage's
    builder in `stages/NAME.py`, the pipe's builder anywhere in `data_pipes`. The loss is the argument `loss`
    of `stages.stage.stage`.

    Args:
        root: folder of the tree whose packages are imported.
        name: the stage, a key of PIPES.
        arguments: command-line arguments after the stage's name.

    Returns:
        Stacks.

    Raises:
        RuntimeError: if the run fails, or one of the three functions is never called.
    """
    from stages.cli.main import main

    folder = f"{root}{os.sep}"
    stacks: dict[str, list[str]] = {}
    losses: set[CodeType] = set()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(folder):
            return
        path = code.co_filename[len(folder) :]
        if code.co_name == "stage" and path == "stages/stage.py":
            losses.add(_code_of(frame.f_locals["loss"]))
        for key, reached in (
            ("stage", code.co_name == name and path == f"stages/{name}.py"),
            ("pipe", code.co_name == PIPES[name] and path.startswith("data_pipes/")),
            ("loss", code in losses),
        ):
            if reached and key not in stacks:
                stacks[key] = list(_files(frame, folder))

    sys.setprofile(profile)
    try:
        exit_code = main([name, *arguments])
    finally:
        sys.setprofile(None)
    if exit_code or len(stacks) < len(Stacks._fields):
        missing = ", ".join(key for key in Stacks._fields if key not in stacks) or "nothing"
        raise RuntimeError(
            f"{name}: expected exit code 0 and all three functions called; got exit code {exit_code}, "
            f"never called: {missing}"
        )
    return Stacks(**stacks)


def record_all(root: Path) -> dict[str, Stacks]:
    """Record both stages on a tiny model. Runs in the child process, with the tree first on sys.path."""
    from stages.cli import main as module

    if not Path(module.__file__).is_relative_to(root):
        raise RuntimeError(f"expected the packages of {root}, got {module.__file__}; is PYTHONPATH set?")
    main = module.main
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "small.json").write_text(json.dumps(dict(CONFIG)))
        (folder / "text.txt").write_text("\n\n".join(f"def add_{i}(x): return x + {i}" for i in range(200)))
        common = [
            "--max_steps",
            "1",
            "--batch_size",
            "4",
            "--dtype",
            "float32",
            "--device",
            "cpu",
            "--no-compile",
        ]
        data = ["--config", f"{folder}/small.json", "--data_path", f"{folder}/text.txt", "--max_length", "16"]
        if main(["pretrain", *data, "--output_dir", f"{folder}/model", *common]):
            raise RuntimeError("pretrain: the tiny model could not be trained; see the error above")
        tuning = ["--model_path", f"{folder}/model", "--examples", "16", "--held_out", "4", *common]
        arguments = {"sft": [], "grpo": ["--max_new_tokens", "4", "--samples", "2"]}
        return {
            name: record_stacks(root, name, [*tuning, "--output_dir", f"{folder}/{name}", *flags])
            for name, flags in arguments.items()
        }


def main() -> None:
    """Print the table of packages and the files to the loss."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--root", type=Path, default=here, help="tree to measure (default: this one)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    if arguments.child:
        with redirect_stdout(io.StringIO()):
            stacks = record_all(root)
        print(json.dumps(stacks))
        return
    print_sizes(root)
    for name, lists in _run_child(root).items():
        print_stacks(name, Stacks(*lists))


def print_sizes(root: Path) -> None:
    """Print the sum over pure, data_pipes and stages, then one line per package."""
    sizes = {name: measure_package(root / name) for name in PACKAGES if (root / name).is_dir()}
    source = [sizes[name] for name in PACKAGES[:3]]
    rows = {"source": Size(*(sum(column) for column in zip(*source, strict=True))), **sizes}
    print(
        f"{'package':<12}{'files':>6}{'lines':>8}{'code':>8}{'statements':>12}{'if-else/k':>11}"
        f"{'compr./k':>10}{'fmt: skip':>11}{'functions>50':>14}{'files>300':>11}"
    )
    for name, size in rows.items():
        per_thousand = 1000 / max(1, size.code)
        print(
            f"{name:<12}{size.files:>6}{size.lines:>8,}{size.code:>8,}{size.statements:>12,}"
            f"{size.conditionals * per_thousand:>11.1f}{size.comprehensions * per_thousand:>10.1f}"
            f"{size.skips:>11}{size.long_functions:>14}{size.long_files:>11}"
        )


def print_stacks(name: str, stacks: Stacks) -> None:
    """Print the files of one stage, each with the stacks on which it appears."""
    files = list(dict.fromkeys(path for part in stacks for path in part))
    print(f"\n{name}: {len(files)} files from the command line to the loss")
    for path in files:
        reached = ", ".join(key for key, part in stacks._asdict().items() if path in part)
        print(f"  {path:<44}{reached}")


def _run_child(root: Path) -> dict[str, list[list[str]]]:
    """Run `record_all` in a child process, with the tree first on sys.path; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    child = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--child", "--root", str(root)],
        env=environment,
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(child.stdout)


def _code_of(function: Any) -> CodeType:
    """Return the code of a function, or of the function inside a partial."""
    while isinstance(function, functools.partial):
        function = function.func
    return function.__code__


def _files(frame: FrameType | None, folder: str) -> Iterator[str]:
    """Yield the project's files on a frame's stack, outermost first, each once."""
    paths = []
    while frame is not None:
        paths.append(frame.f_code.co_filename)
        frame = frame.f_back
    inside = [path[len(folder) :] for path in reversed(paths) if path.startswith(folder)]
    yield from dict.fromkeys(path for path in inside if path.split(os.sep)[0] in PACKAGES[:3])


def _is_docstring(node: ast.AST) -> bool:
    """Test whether a statement is a bare string."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _docstring_lines(nodes: Sequence[ast.AST]) -> set[int]:
    """Return the lines of docstrings, and of bare strings below an assignment."""
    strings = [node for node in nodes if isinstance(node, ast.Expr) and _is_docstring(node)]
    return {line for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def _code_lines(text: str) -> set[int]:
    """Return the lines that hold a token other than a comment or white space."""
    ignored = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in ignored:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef, code: set[int]) -> int:
    """Count the lines of code in a function's body, without its signature and docstring."""
    return sum(node.body[0].lineno <= line <= (node.end_lineno or node.lineno) for line in code)


if __name__ == "__main__":
    main()
