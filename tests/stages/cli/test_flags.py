"""Every flag has its meaning, its unit and its default in --help, which answers at once and imports no torch."""

from __future__ import annotations

import dataclasses
import inspect
import re
import resource
import subprocess
import sys
from importlib import import_module

import pytest

from stages.cli.flags import parse
from stages.cli.main import SUBCOMMANDS, main
from stages.options import PretrainOptions


def options_of(name: str) -> type:
    """The dataclass of a subcommand's flags."""
    module = import_module(f"stages.cli.{name}")
    found = [value for key, value in vars(module).items() if key.endswith("Options") and key.lower().startswith(name)]
    return found[0]


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help_lists_every_flag_with_its_meaning_and_default(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = " ".join(re.sub(r"[│╭╰╮╯─]", " ", capsys.readouterr().out).split())
    for field in dataclasses.fields(options_of(name)):
        flag = field.name.upper() if "Positional" in str(field.type) else f"--{field.name}"
        assert re.search(rf"{flag}\b", shown), flag
        if field.default not in (dataclasses.MISSING, ()):
            default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
            assert f"(default: {default})" in shown.replace("'", "")
    assert "(required)" in shown or name in ("demo", "tokenizer", "pretrain", "estimate", "compare")


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_flag_has_words_that_say_in_what_it_counts(name: str) -> None:
    """A number's help names what it is a number of."""
    units = (
        "steps", "rows", "row", "tokens", "ids", "times", "share", "rate", "norm", "pieces", "decay", "weight", "seed",
        "validations", "checkpoints", "occurrences", "sharpness", "number", "factor",
        "items", "examples", "programs", "seconds", "k", "id",
    )  # fmt: skip
    kind = options_of(name)
    source = "".join(inspect.getsource(base) for base in kind.__mro__ if dataclasses.is_dataclass(base))
    for field in dataclasses.fields(kind):
        words = re.search(rf'    {field.name}: [^\n]*\n    """(.*?)"""', source, re.DOTALL)
        assert words, field.name
        if re.match(r"(int|float)\b", str(field.type)):
            assert any(re.search(rf"\b{unit}", words[1].lower()) for unit in units), f"{field.name}: {words[1]}"


PROGRAM = """
import sys
from stages.cli.main import main
try:
    main([sys.argv[1], "--help"])
except SystemExit:
    assert not {"torch", "numpy", "transformers", "datasets"} & set(sys.modules)
"""


def seconds(name: str) -> float:
    """How long a core works for --help of a subcommand, in a process of its own; others may work beside it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", PROGRAM, name], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help_is_quick_and_imports_nothing_heavy(name: str) -> None:
    assert min(seconds(name) for _ in range(2)) < 0.7


def test_both_spellings_of_a_flag_are_taken() -> None:
    for flag in ("--batch_size", "--batch-size"):
        assert parse(PretrainOptions, "pretrain", [flag, "7"]).batch_size == 7
    assert not parse(PretrainOptions, "pretrain", ["--no-compile"]).compile
    assert parse(PretrainOptions, "pretrain", ["--ema", "0.9"]).ema == 0.9
    assert parse(PretrainOptions, "pretrain", ["--max_steps", "None"]).max_steps is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--lerning_rate", "1"], "--learning_rate"),
        (["--batch_size", "x"], "--batch_size"),
        (["--dtype", "int8"], "--dtype"),
    ],
)
def test_a_wrong_flag_ends_with_2_and_names_the_right_one(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(PretrainOptions, "pretrain", arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
