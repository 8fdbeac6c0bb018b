"""Flags from a file: the command line wins, values are read by their flags' types, mistakes name file and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.cli.flag_file import convert
from stages.cli.flags import parse, parse_command
from stages.run import config_file
from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import GRPOOptions, SFTOptions

GRPO = """
# values that YAML 1.1 would take for others
model_path: 007
learning-rate: 1e-4
split: no
subset: "null"
compile: off
lora: null
reward: [correct, my.py:f]
reward_weights: [1, 5e-1]
seed: 0010
wandb: 2024-01-01
max_steps: None
"""


def write(tmp_path: Path, text: str, name: str = "run.yaml") -> str:
    """Write a file of flags, and return its path."""
    path = tmp_path / name
    path.write_text(text, encoding="utf8")
    return str(path)


def test_values_are_read_by_the_types_of_their_flags(tmp_path: Path) -> None:
    assert parse(GRPOOptions, "grpo", ["--config_file", write(tmp_path, GRPO)]) == GRPOOptions(
        model_path="007",
        learning_rate=1e-4,
        split="no",
        subset="null",
        compile=False,
        reward=("correct", "my.py:f"),
        reward_weights=(1.0, 0.5),
        seed=10,
        wandb="2024-01-01",
    )


def test_the_command_line_wins(tmp_path: Path) -> None:
    words = ["--config_file", write(tmp_path, GRPO), "--compile", "--reward", "b.py:g", "--seed=3"]
    options = parse(GRPOOptions, "grpo", [*words, "--reward_weights", "2", "--model_path", "m"])
    assert (options.compile, options.seed, options.model_path) == (True, 3, "m")
    assert (options.reward, options.reward_weights, options.split) == (("b.py:g",), (2.0,), "no")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sft", SFTOptions(model_path="m", lora="balanced", lora_targets=("q", "v"), ema=0.5, packing=False)),
        ("pretrain", PretrainOptions(learning_rate=1, config="c.json", boundaries="mask", max_steps=3)),
    ],
)
def test_the_file_that_a_run_writes_is_accepted(
    name: str, options: SFTOptions | PretrainOptions, tmp_path: Path
) -> None:
    config_file.write(
        tmp_path,
        {
            **({} if name == "pretrain" else {"stage": name}),
            "options": vars(options),
            "model": {},
            "threads": 2,
        },
    )
    words = ["--config_file", str(tmp_path / "config.json")]
    assert parse(type(options), name, words) == options
    with pytest.raises(ValueError, match=rf"config\.json was written by a run of {name}, and this is grpo"):
        parse(GRPOOptions, "grpo", words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 4", "batchsize: unknown flag of pretrain; did you mean batch_size?"),
        ("no_compile: true", "no_compile: unknown flag of pretrain; write compile: false"),
        ("dry_run: true", "dry_run: unknown flag of pretrain; it is for the command line only"),
        ("zzz: 1", "zzz: unknown flag of pretrain"),
        ("batch_size: four", 'batch_size: expected a whole number, got "four"'),
        ("batch_size: 1.5", 'batch_size: expected a whole number, got "1.5"'),
        ("learning_rate: [1]", 'learning_rate: expected a number, got ["1"]'),
        ("compile: maybe", 'compile: expected true or false, got "maybe"'),
        ("learning_rate:", "learning_rate: expected a number, got null"),
        ("schedule: cosin", 'schedule: expected one of cosine, linear, wsd, constant, got "cosin"'),
        ("batch_size: 0", "--batch_size: expected at least 1, got 0"),
        ("seed: 1\nseed: 2", "seed is given twice; keep one of them"),
        ("batch_size: 1\nbatch-size: 2", "batch_size is given twice; keep one of them"),
        ("seed: &a [*a]", "line 1: expected a value or a list of values"),
        ("a: [1\nb: 2", "line 2 is no YAML: expected ',' or ']', but got ':'"),
        (
            "seed: " + "[" * 3000,
            "it is nested too deeply; expected flags and their values, such as batch_size: 16",
        ),
        ("- seed", "expected flags and their values, such as batch_size: 16"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        parse(PretrainOptions, "pretrain", ["--config_file", path])
    assert (
        str(caught.value).removesuffix("; intro2llm pretrain --help lists the flags") == f"{path}: {message}"
    )


def test_json_keeps_its_types(tmp_path: Path) -> None:
    values = {"batch_size": 4, "learning_rate": 1, "compile": False, "ema": None, "max_steps": "7"}
    path = write(tmp_path, json.dumps(values), "run.json")
    options = parse(PretrainOptions, "pretrain", ["--config_file", path])
    assert (options.batch_size, options.compile, options.ema, options.max_steps) == (4, False, None, 7)
    for text, message in (
        ('{"batch_size": true}', "batch_size: expected a whole number, got true"),
        ('{"seed": 1, "seed": 2}', "seed is given twice"),
        ("{", "line 1 is no JSON"),
        ('{"a":' + "[" * 100_000, "nested too deeply"),
    ):
        with pytest.raises(ValueError, match=message):
            parse(PretrainOptions, "pretrain", ["--config_file", write(tmp_path, text, "run.json")])


def test_files_that_are_not_there_or_have_another_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        parse(PretrainOptions, "pretrain", ["--config_file", str(tmp_path / "none.yaml")])
    with pytest.raises(ValueError, match=r"expected a file named \.json or \.yaml or \.yml"):
        parse(PretrainOptions, "pretrain", ["--config_file", "run.toml"])
    with pytest.raises(ValueError, match="--config_file needs a value"):
        parse(PretrainOptions, "pretrain", ["--config_file"])


def test_only_training_stages_have_the_two_flags_and_options_hold_neither(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    command = parse_command(PretrainOptions, "pretrain", ["--config_file", path, "--dry_run"])
    assert command == (PretrainOptions(), True)


def test_numbers_of_two_types_and_texts_are_converted() -> None:
    assert convert("3", int | float) == 3
    assert convert("3.5", int | float) == 3.5
    assert convert("nan", int) == "nan"
    assert convert("x", tuple[str, ...]) == ("x",)
