"""`intro2llm generate` continues prompts up to eos, reproducibly by seed, and refuses bad flags."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from pure import random, tree
from pure.generation.sampling import Sampling
from pure.nn.transformer import transformer
from stages.cli.generate import generate_texts
from stages.cli.main import main
from stages.models import language_model
from stages.models.language_model import Pretrained
from tests.stages.models.test_language_model import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_model.save(tmp_path_factory.mktemp("generate") / "final_model", make_model())


def generate(model: Path, *arguments: str) -> int:
    return main(["generate", "--model_path", str(model), "--max_new_tokens", "6", *arguments])


def test_every_prompt_is_continued_and_the_seed_decides_the_text(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for seed in ("0", "0", "1"):
        assert generate(model, "--prompt", "def add", "--prompt", "return", "--seed", seed) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    assert outputs[0].startswith("def add")
    assert "\n\nreturn" in outputs[0]


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_ids_beyond_the_tokenizer_are_never_sampled(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The vocabulary is padded by 100 ids, and the model gives each a higher logit than any token."""
    pretrained = make_model(vocab_size=390, tie_word_embeddings=False, max_position_embeddings=128)
    head = torch.zeros_like(pretrained.params["head"])
    head[290:] = 9 * pretrained.params["norm"]["scale"]
    params = {**pretrained.params, "head": head}
    folder = language_model.save(tmp_path / "model", pretrained._replace(params=params))
    flags = ["--model_path", str(folder), "--max_new_tokens", "8", "--temperature", "0", "--prompt", "return"]
    assert main([command, *flags]) == 0
    assert "error" not in capsys.readouterr().err
    loaded = language_model.load(folder)
    assert loaded.tokenizer.decode([300, 5, 389]) == loaded.tokenizer.decode([5])


def test_temperature_0_is_greedy(model: Path) -> None:
    loaded = language_model.load(model)
    ids = loaded.tokenizer.encode("def add")
    for _ in range(3):
        ids.append(int(loaded.model.forward(loaded.params, torch.tensor([ids]))[0, -1].argmax()))
    texts = generate_texts(loaded, ["def add"], Sampling(3, temperature=0.0), key=random.key(0))
    assert texts == [loaded.tokenizer.decode(ids[-3:])]


def test_generation_stops_at_eos_and_does_not_print_it() -> None:
    """A model whose next token is always eos."""
    pretrained = make_model(tie_word_embeddings=False)
    eos = pretrained.model.config.eos_token_id
    assert eos is not None
    params = tree.map(lambda x: x.clone(), pretrained.params)
    params["embedding"].fill_(1.0)
    params["head"].zero_()
    params["head"][eos] = 1.0
    pretrained = pretrained._replace(params=params)
    texts = generate_texts(pretrained, ["a", "bc"], Sampling(20, temperature=0.0), key=random.key(0))
    assert texts == ["", ""]


def test_a_model_without_eos_generates() -> None:
    pretrained = make_model()
    endless = transformer(dataclasses.replace(pretrained.model.config, eos_token_id=None))
    without_eos = Pretrained(endless, endless.init(random.key(0)), pretrained.tokenizer)
    sampling = Sampling(5, temperature=0.8, top_p=0.95)
    assert len(generate_texts(without_eos, ["a"], sampling, key=random.key(0))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to continue; give --prompt TEXT"),
        (["--prompt", ""], "--prompt is empty; give some text to continue"),
        (["--prompt", "a", "--seed", "-1"], "--seed: expected a number in [0, 4294967295], got -1"),
        (["--prompt", "a" * 500], "exceed max_position_embeddings 32"),
        (["--prompt", "a", "--max_new_tokens", "0"], "--max_new_tokens: expected at least 1, got 0"),
        (["--prompt", "a", "--top_p", "0"], "top_p"),
        (["--prompt", "a", "--temperature", "-1"], "temperature"),
        (["--prompt", "a", "--device", "tpu"], "--device tpu: expected auto, cpu or cuda"),
    ],
)
def test_bad_flags_are_refused_in_one_line(
    arguments: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(model, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("intro2llm generate: ")
    assert message in line


def test_a_terminal_shows_that_the_model_is_loading(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert generate(model, "--prompt", "a") == 0
    assert capsys.readouterr().err == f"loading {model}\n"


def test_a_folder_without_a_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(tmp_path, "--prompt", "a") == 2
    assert "config.json is missing; expected a run's folder with a final_model" in capsys.readouterr().err
