"""Command-line flags: --help gives each flag's meaning, unit and default quickly; mistakes are explained."""

from __future__ import annotations

import dataclasses
import re
import resource
import subprocess
import sys
from typing import get_type_hints

import pytest

from stages.cli.chat import ChatOptions
from stages.cli.evaluate import CompareOptions
from stages.cli.flags import help_texts, parse
from stages.cli.generate import GenerateOptions
from stages.cli.main import main
from stages.cli.mistakes import find_mistake
from stages.cli.replay import ReplayOptions
from stages.cli.subcommands import SUBCOMMANDS, resolve
from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import GRPOOptions, SFTOptions


def options_of(name: str) -> type:
    """The dataclass of a subcommand's flags."""
    return resolve(SUBCOMMANDS[name].options)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help_lists_every_flag_with_its_meaning_and_default(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([name, "--help"])
    assert exit_info.value.code == 0
    shown = " ".join(re.sub(r"[│╭╰╮╯─]", " ", capsys.readouterr().out).split())
    texts = help_texts(options_of(name))
    for field in dataclasses.fields(options_of(name)):
        flag = field.name.upper() if "Positional" in str(field.type) else f"--{field.name.rstrip('_')}"
        assert " ".join(texts[field.name].split()) in shown
        assert re.search(rf"{flag}\b", shown), flag
        if field.default not in (dataclasses.MISSING, ()):
            default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
            assert f"(default: {default})" in shown.replace("'", "")
    assert "(required)" in shown or name in ("demo", "tokenizer", "pretrain", "estimate", "compare", "report")


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_the_help_of_every_flag_has_its_unit(name: str) -> None:
    """A number's help names what it is a number of."""
    units = (
        "steps",
        "rows",
        "row",
        "tokens",
        "ids",
        "times",
        "temperature",
        "share",
        "rate",
        "norm",
        "pieces",
        "decay",
        "weight",
        "seed",
        "validations",
        "checkpoints",
        "occurrences",
        "sharpness",
        "number",
        "factor",
        "items",
        "examples",
        "programs",
        "seconds",
        "k",
        "id",
    )
    kind = options_of(name)
    texts, hints = help_texts(kind), get_type_hints(kind)
    for field in dataclasses.fields(kind):
        assert texts[field.name], field.name
        if hints[field.name] in (int, float, int | None, float | None):
            text = texts[field.name]
            assert any(re.search(rf"\b{unit}", text.lower()) for unit in units), f"{field.name}: {text}"


HELP_PROGRAM = """
import sys
from stages.cli.generate import GenerateOptions
from stages.cli.main import main
try:
    main([sys.argv[1], "--help"])
except SystemExit:
    assert not {"torch", "numpy", "transformers", "datasets"} & set(sys.modules)
"""


def cpu_seconds(program: str, *arguments: str) -> float:
    """CPU seconds that a program takes in a new process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help_takes_under_0_7_cpu_seconds_and_imports_no_heavy_library(name: str) -> None:
    """On a machine, or at a moment, at which the import of tyro takes more than 0.14 s: under five of these."""
    assert any(
        cpu_seconds(HELP_PROGRAM, name) < max(0.7, 5 * cpu_seconds("import tyro")) for _ in range(2)
    )  # another process may disturb the first try


def test_flags_are_read_with_underscores_or_hyphens() -> None:
    for flag in ("--batch_size", "--batch-size"):
        assert parse(PretrainOptions, "pretrain", [flag, "7"]).batch_size == 7
    assert not parse(PretrainOptions, "pretrain", ["--no-compile"]).compile
    assert parse(PretrainOptions, "pretrain", ["--ema", "0.9"]).ema == 0.9
    assert parse(PretrainOptions, "pretrain", ["--max_steps", "None"]).max_steps is None


MISTAKES = (
    (["--lerning_rate", "1"], "--lerning_rate: unknown flag; did you mean --learning_rate?"),
    (["--modelpath", "x"], "--modelpath: unknown flag; did you mean --model_path?"),
    (["--batch_size", "x"], "--batch_size: expected a whole number, got 'x'"),
    (["--batch_size", "1.5"], "--batch_size: expected a whole number, got '1.5'"),
    (["--learning_rate=fast"], "--learning_rate: expected a number, got 'fast'"),
    (["--dtype", "int8"], "--dtype: expected one of auto, float32, bfloat16, float16, got 'int8'"),
    (["--compile", "false"], "--compile takes no value, got false; --no_compile turns it off"),
    (["--compile=False"], "--compile takes no value, got False; --no_compile turns it off"),
    (["--no-compile", "true"], "--no-compile takes no value, got true; --no_compile turns it off, --compile on"),
    (["--no_compil"], "--no_compil: unknown flag; did you mean --no_compile?"),
    (["--no_wandb"], "--no_wandb: unknown flag; write --wandb None"),
    (["--no_shard"], "--no_shard: unknown flag; write --shard none"),
    (["--no_seed"], "--no_seed: unknown flag; did you mean --seed?"),
    (["--batch_size"], "--batch_size needs a value"), (["words"], "unexpected 'words' before the first flag"),
    (["-seed", "1"], "unexpected '-seed' before the first flag; did you mean --seed?"),
    (["batch=4"], "unexpected 'batch=4' before the first flag; did you mean --batch_size?"),
    (["-q"], "unexpected '-q' before the first flag; a flag begins with --"),
    (["--max_steps", "1", "2"], "--max_steps takes one value, got 2: 1 2"),
    (["--max_steps", "many"], "--max_steps: expected a whole number, got 'many'"),
)  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_wrong_flag_exits_with_2_and_one_line_that_names_the_mistake(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"intro2llm pretrain: {message}")
    assert line.endswith("intro2llm pretrain --help lists the flags")


def test_find_mistake_names_a_missing_flag_and_accepts_valid_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert find_mistake(SFTOptions, ["--batch_size", "4"]) == "--model_path is required"
    assert find_mistake(SFTOptions, ["--model_path", "m", "--lora_targets", "q", "v", "--ema", "None"]) == ""
    assert find_mistake(GRPOOptions, ["--model_path=m", "--reward_weights", "1", "-2.5"]) == ""
    assert find_mistake(GRPOOptions, ["--model_path=m", "--reward_weights", "1", "b"]).endswith("got 'b'")
    for words, count in (([], 0), (["a", "b"], 2)):
        mistake = find_mistake(GenerateOptions, ["--model_path=m", "--prompt", *words])
        assert mistake == f"--prompt takes one value, got {count}; repeat the flag for more"
    assert find_mistake(GenerateOptions, ["--model_path=m", "--prompt", "a", "--prompt=-b"]) == ""
    assert find_mistake(ReplayOptions, ["runs/a", "--step", "3"]) == ""
    assert find_mistake(ReplayOptions, ["--step", "3", "runs/a"]) == ""


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ReplayOptions, ["--step", "3"], "RUN is required"),
        (ReplayOptions, [], "RUN, --step are required"),
        (ReplayOptions, ["a", "--step", "3", "b"], "unexpected 'b' after RUN"),
        (CompareOptions, ["a"], "SECOND is required"),
        (CompareOptions, ["a", "b", "c"], "unexpected 'c' after FIRST SECOND"),
        (CompareOptions, ["a", "b"], ""),
    ],
)
def test_missing_and_extra_positional_arguments_are_named(
    kind: type, arguments: list[str], message: str
) -> None:
    assert find_mistake(kind, arguments) == message


def test_a_list_given_in_two_parts_is_refused_and_not_cut() -> None:
    twice = ["--model_path=m", "--reward", "a.py:f", "--reward", "b.py:g"]
    assert (
        find_mistake(GRPOOptions, twice)
        == "--reward is given 2 times; give it once, with all its values after it"
    )
    assert find_mistake(GenerateOptions, ["--model_path=m", "--prompt", "a", "--prompt", "b"]) == ""
    assert find_mistake(GRPOOptions, ["--model_path=m", "--beta", "1", "--beta", "2"]) == ""  # the last one


@pytest.mark.parametrize(
    "name", ["--output_dir", "--data_path", "--model_path", "--chat_template", "--reward"]
)
def test_an_empty_text_is_refused(name: str) -> None:
    """Mostly a shell variable that is not set; as a path it would be the current folder."""
    arguments = ["--model_path", "m", name, ""] if name != "--model_path" else [name, ""]
    with pytest.raises(ValueError, match=f"^{name}: expected text, got an empty one"):
        parse(GRPOOptions, "grpo", arguments)


def test_a_system_message_may_be_empty() -> None:
    assert parse(ChatOptions, "chat", ["--model_path", "m", "--system", ""]).system == ""


@pytest.mark.parametrize(("words", "expected"), [([], None), (["--chat"], True), (["--no_chat"], False)])
def test_a_switch_that_decides_nothing_unless_it_is_given(words: list[str], expected: bool | None) -> None:
    arguments = ["--model_path", "m", "--task", "exact_match", *words]
    assert parse(options_of("evaluate"), "evaluate", arguments).chat is expected  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="--chat takes no value, got True; --no_chat turns it off"):
        parse(options_of("evaluate"), "evaluate", [*arguments, "--chat", "True"])
