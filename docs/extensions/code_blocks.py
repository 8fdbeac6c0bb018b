"""Run the blocks of code of a page, and compare what they print with what the page says.

    python -m docs.extensions.code_blocks docs/PAGE.md            compares
    python -m docs.extensions.code_blocks docs/PAGE.md --write    writes what was printed into the page

All blocks of a page share one folder and one namespace:

- `python` with `>>>`: a doctest. Without: a program, or, if its first line is `# NAME.py`, that file.
- `console`: each line after `$ ` is a command of bash, or of `intro2llm`, and the output that it prints.
- `bash`: commands that are not run here, such as an installation; the flags of `intro2llm` are checked.
- `text`: no code.
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import io
import json
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```([^\s`]*)[^\n`]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LANGUAGES = ("python", "console", "bash", "text")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SPEED = re.compile(
    r"[\d,.e-]+ T?(?:tok|FLOP)/s|\"tok_per_sec\": [\d.]+|left \d+:\d\d|\b\d+(?:\.\d+)? (?:s|MB|MiB)\b"
)
"""Speeds, times and sizes in the output of a command, which differ from machine to machine."""

PROGRESS = re.compile(r"^(step \d+/\d+) .*\n", re.MULTILINE)
"""Progress of a run, which a slow machine prints more often than a fast one."""

DECIMAL = re.compile(r"\d+\.\d+")
TOLERANCE = 0.05
"""Largest relative difference of decimal numbers in the output of a command: processors round differently."""

PRELOADED = (
    "tyro._backends._tyro_backend",
    "stages.checkpoint.fingerprint",
    "stages.cli.flags",
    "stages.cli.main",
    "stages.report.write",
    "stages.run.build",
    "stages.run.data.corpus",
    "stages.run.loop",
    "stages.run.train",
)
"""Modules that most commands need, imported once for all."""

ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "class": "tests/test_course_pages.py",
        "course": "tests/test_course_pages.py",
        "parallel": "tests/test_parallel_page.py",
        "quickstart.zh": "tests/docs/test_translate.py",
        "research": "tests/examples/test_research_page.py",
    }
)
"""Page whose blocks a test runs, or holds equal to those of another page -> the test."""


class Block(NamedTuple):
    """A fenced block.

    Fields:
        language: the word after the fence.
        text: its content.
        line: line of the page at which the content starts, from 1.
    """

    language: str
    text: str
    line: int


class Failure(NamedTuple):
    """A block that does not do what the page says.

    Fields:
        line: line of the page, from 1.
        message: what was expected, and what came.
    """

    line: int
    message: str


class Page(NamedTuple):
    """What the blocks of a page share.

    Fields:
        folder: the working folder of commands and programs.
        names: the namespace of Python.
    """

    folder: Path
    names: dict[str, Any]


def find_blocks(text: str) -> list[Block]:
    """Find the fenced blocks of a page, without directives of Sphinx, such as ```{toctree}."""
    return [
        Block(found[1], found[2], text[: found.start(2)].count("\n") + 1)
        for found in FENCE.finditer(text)
        if not found[1].startswith("{")
    ]


def run_page(name: str, text: str) -> tuple[list[Failure], str]:
    """Run all blocks of a page in order.

    Args:
        name: of the page, without its suffix.
        text: Markdown.

    Returns:
        The failures, and the text with the output that was printed.
    """
    failures: list[Failure] = []
    written: list[tuple[Block, str]] = []
    with tempfile.TemporaryDirectory() as folder, work_in(folder):
        page = Page(Path(folder), {"__name__": "__main__"})
        for block in [] if name in ELSEWHERE else find_blocks(text):
            found, printed = RUNNERS.get(block.language, refuse_language)(block, page)
            failures += found
            written.append((block, printed))
    lines = text.split("\n")
    for block, printed in reversed(written):
        count = block.text.count("\n")
        lines[block.line - 1 : block.line - 1 + count] = printed.split("\n")[:-1]
    return failures, "\n".join(lines)


@contextlib.contextmanager
def work_in(folder: str) -> Iterator[None]:
    """Make a folder the working folder."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def refuse_language(block: Block, page: Page) -> tuple[list[Failure], str]:
    """Refuse a block of another language."""
    message = f"expected a block of {', '.join(LANGUAGES)}, got {block.language!r}"
    return [Failure(block.line, message)], block.text


def keep_text(block: Block, page: Page) -> tuple[list[Failure], str]:
    """Return a block that is no code."""
    return [], block.text


def run_python(block: Block, page: Page) -> tuple[list[Failure], str]:
    """Run a block of Python: a doctest, a file to write, or a program."""
    if block.text.startswith(">>>"):
        return run_doctest(block, page)
    if name := re.match(r"# (\w+\.py)\n", block.text):
        (page.folder / name[1]).write_text(block.text)
        return [], block.text
    try:
        exec(compile(block.text, f"<line {block.line}>", "exec"), page.names)
    except Exception:
        return [Failure(block.line, traceback.format_exc(limit=-2))], block.text
    return [], block.text


def run_doctest(block: Block, page: Page) -> tuple[list[Failure], str]:
    """Run the examples of a doctest, and return the block with what they printed."""
    examples = doctest.DocTestParser().get_examples(block.text)
    failures, printed = [], ""
    for example in examples:
        got = run_example(example, page.names)
        printed += "".join(
            f"{'...' if i else '>>>'} {line}".rstrip() + "\n"
            for i, line in enumerate(example.source.rstrip("\n").split("\n"))
        )
        same = outputs_agree(example.want, got)
        printed += (example.want if same else got) + ("\n" if ends_paragraph(block, example) else "")
        if not same:
            failures.append(Failure(block.line + example.lineno, describe(example.source, example.want, got)))
    return failures, printed


def ends_paragraph(block: Block, example: doctest.Example) -> bool:
    """Return True if an empty line follows the example."""
    length = example.source.count("\n") + example.want.count("\n")
    rest = block.text.split("\n")[example.lineno + length :]
    return len(rest) > 1 and rest[0] == ""


def run_example(example: doctest.Example, names: dict[str, Any]) -> str:
    """Run one example, and return what it printed, or the traceback's last line in the form of doctest."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            exec(compile(example.source, "<doctest>", "single"), names)
        except Exception as error:
            last = "".join(traceback.format_exception_only(error))
            return f"Traceback (most recent call last):\n    ...\n{last}"
    return output.getvalue()


def outputs_agree(want: str, got: str) -> bool:
    """Compare two outputs; `...` matches any text, and white space is equal to other white space."""
    return doctest.OutputChecker().check_output(want, got, FLAGS)


def commands_agree(want: str, got: str) -> bool:
    """Compare the outputs of a command: speeds may be any, decimal numbers differ by TOLERANCE, and more lines of
    progress may be printed than are expected."""
    expected = set(PROGRESS.findall(want))
    got = PROGRESS.sub(lambda line: line[0] if line[1] in expected else "", got)
    want, got = SPEED.sub("<speed>", want), SPEED.sub("<speed>", got)
    if not outputs_agree(DECIMAL.sub("<number>", want), DECIMAL.sub("<number>", got)):
        return False  # quickly, where the pattern below would try every place of each ellipsis
    match = re.fullmatch(pattern_of(want.strip()), got.strip(), re.DOTALL)
    pairs = zip(map(float, DECIMAL.findall(want)), map(float, match.groups() if match else ()), strict=False)
    return bool(match) and all(abs(a - b) <= TOLERANCE * abs(a) for a, b in pairs)


def pattern_of(want: str) -> str:
    """Return the pattern of an output: "..." is any text, blanks are any blanks, and a decimal number is a group."""
    parts = re.split(rf"(\.\.\.|{DECIMAL.pattern}|\s+)", want)
    return "".join(map(_pattern_of_part, parts))


def _pattern_of_part(part: str) -> str:
    """The pattern of an ellipsis, of a decimal number, of blanks, or of other text."""
    if part == "...":
        return ".*?"
    if DECIMAL.fullmatch(part):
        return f"({DECIMAL.pattern})"
    return r"\s+" if part.isspace() else re.escape(part)


def describe(source: str, want: str, got: str) -> str:
    """Describe a difference."""
    return f"{source.rstrip()}\nexpected:\n{want or '(nothing)'}\ngot:\n{got or '(nothing)'}"


def split_commands(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line from 0, command, output) of a console; `> ` continues a command."""
    number, command, output = 0, "", ""
    for i, line in enumerate(text.splitlines()):
        if line.startswith("$ "):
            if command:
                yield number, command, output
            number, command, output = i, line[2:], ""
        elif line.startswith("> ") and not output:
            command += "\n" + line[2:]
        else:
            output += line + "\n"
    if command:
        yield number, command, output


def run_console(block: Block, page: Page) -> tuple[list[Failure], str]:
    """Run each command, and return the block with what they printed."""
    failures, printed = [], ""
    for number, command, want in split_commands(block.text):
        got = run_command(command, page.folder)
        same = commands_agree(want, got)
        head, *rest = command.split("\n")
        printed += "\n".join([f"$ {head}", *(f"> {line}" for line in rest)]) + "\n" + (want if same else got)
        if not same:
            failures.append(Failure(block.line + number, describe(command, want, got)))
    return failures, printed


def run_command(command: str, folder: Path) -> str:
    """Run a command in a folder, and return its output and errors; `intro2llm` alone needs no new interpreter."""
    first, pipe, rest = command.replace("\\\n", " ").partition(" | ")
    if not first.startswith("intro2llm ") or {">", "<", "&&", ";"} & set(shlex.split(first)):
        return run_bash(command, folder)
    output = run_subcommand(shlex.split(first)[1:], folder)
    return run_bash(rest, folder, output) if pipe else output


def run_bash(command: str, folder: Path, text: str = "") -> str:
    """Run a command of bash that reads the text; return its output and errors."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"},
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return clean(done.stdout)


def clean(output: str) -> str:
    """Remove colours, and the spaces at the ends of lines."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    return "".join(line.split("\r")[-1].rstrip() + "\n" for line in plain.splitlines())


def run_subcommand(arguments: list[str], folder: Path) -> str:
    """Run `intro2llm` in a child of a process that has the libraries loaded; return its output and errors."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    path = folder / ".output"
    child = context.Process(target=call_main, args=(arguments, str(folder), str(path)))
    child.start()
    child.join()
    output = path.read_text()
    path.unlink()
    return clean(output)


def call_main(arguments: list[str], folder: str, output: str) -> None:
    """Body of the child: standard output and errors go to a file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.chdir(folder)
    os.environ["COLUMNS"] = "100"
    from stages.cli.main import main

    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def check_bash(block: Block, page: Page) -> tuple[list[Failure], str]:
    """Check commands that are not run: subcommands and flags exist, and so do the named files."""
    failures = []
    for number, line in enumerate(block.text.splitlines()):
        for message in find_mistakes(line):
            failures.append(Failure(block.line + number, message))
    return failures, block.text


def find_mistakes(line: str) -> Iterator[str]:
    """Yield the mistakes of a command of bash."""
    from stages.cli.flags import parser_class
    from stages.cli.mistakes import find_mistake
    from stages.cli.subcommands import SUBCOMMANDS, resolve

    words = shlex.split(line, comments=True)
    for word in words:
        if re.match(r"(benchmarks|tests|docs|examples|\.ci)/", word) and not (ROOT / word).exists():
            yield f"{word}: no such file"
    if "intro2llm" in words:
        words = words[words.index("intro2llm") + 1 :]
        if words[0] == "launch":
            words = words[2:]
        if words[0].startswith("-"):
            return
        if words[0] not in SUBCOMMANDS:
            yield f"intro2llm {words[0]}: no such subcommand"
        elif mistake := find_mistake(parser_class(resolve(SUBCOMMANDS[words[0]].options)), words[1:]):
            yield mistake


RUNNERS = MappingProxyType(
    {"python": run_python, "console": run_console, "bash": check_bash, "text": keep_text}
)
"""Language -> function that runs a block."""


def main() -> int:
    """Run pages, and print or write the differences; return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument(
        "--json", type=Path, help="file for the failures and each page's seconds, in place of standard output"
    )
    options = parser.parse_args()
    failures, seconds = [], {}
    for path in options.pages:
        start = time.perf_counter()
        found, text = run_page(path.stem, path.read_text(encoding="utf8"))
        failures += [(str(path), failure.line, failure.message) for failure in found]
        seconds[str(path)] = round(time.perf_counter() - start, 1)
        if options.write:
            path.write_text(text, encoding="utf8")
    if options.json:
        options.json.write_text(json.dumps([failures, seconds]), encoding="utf8")
    else:
        print(*(f"{path}:{line}: {message}" for path, line, message in failures), sep="\n", end="")
    return 1 if failures and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())
