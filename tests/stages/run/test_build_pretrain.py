"""`build_pretrain`: the same flags and data build the same run; invalid flags are named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipes import tokenizer as tokenizers
from data_pipes.tokens import memory_store
from pure import random, tree
from stages.checkpoint.fingerprint import fingerprint
from stages.models import language_model
from stages.run import config_file
from stages.run.build_pretrain import build, check
from stages.run.data.corpus import Corpus
from stages.run.optimizer import learning_rate
from stages.run.options.pretrain import PretrainOptions
from tests.stages.small import write_config


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    tokenizer = tokenizers.train(["low lower lowest"], 264)
    train, held_out = (memory_store([[i % 250 + 4 for i in range(n)]], vocab_size=264) for n in (1001, 101))
    return Corpus(tokenizer, train, held_out, 300)


@pytest.fixture
def base(tmp_path: Path) -> PretrainOptions:
    config = str(write_config(tmp_path / "small.json"))
    return PretrainOptions(config=config, batch_size=4, max_length=10, dtype="float32", device="cpu")


def replace_flags(options: PretrainOptions, **changes: Any) -> PretrainOptions:
    return dataclasses.replace(options, **changes)


def make_pipe(options: PretrainOptions, corpus: Corpus) -> Any:
    return build(options, corpus).pipe


@pytest.mark.parametrize(("before", "rows", "after"), [(8, 10, 10), (10, 8, 10), (None, 8, None)])
def test_the_model_keeps_the_length_of_its_longest_rows(
    before: int | None, rows: int, after: int | None, base: PretrainOptions, corpus: Corpus, tmp_path: Path
) -> None:
    start = build(base, corpus).base
    assert start.trained_length == 10
    params = start.model.init(random.key(0))
    folder = language_model.save(tmp_path / "m", start._replace(params=params, trained_length=before))
    more = replace_flags(base, config=None, model_path=str(folder), max_length=rows)
    assert build(more, corpus).base.trained_length == after


FEATURES = {"ema": 0.9, "gradient_accumulation": 2, "boundaries": "mask", "z_loss": 1e-4}


@pytest.mark.parametrize(
    ("optimizer", "features"), [("adamw", {}), ("adamw", FEATURES), ("muon", {}), ("lion", {}), ("sgd", {})]
)
def test_building_twice_gives_the_same_run(
    optimizer: Any, features: dict[str, Any], base: PretrainOptions, corpus: Corpus
) -> None:
    options = replace_flags(base, optimizer=optimizer, **features)
    one, two = build(options, corpus), build(options, corpus)
    prints = [fingerprint(experiment.stage, experiment.pipe, corpus.tokenizer) for experiment in (one, two)]
    assert prints[0] == prints[1]
    states = [
        experiment.stage.step(experiment.stage.init(experiment.key), experiment.pipe[0])
        for experiment in (one, two)
    ]
    pairs = zip(*map(tree.leaves, states), strict=True)
    assert all(torch.equal(a, b) or (a != a).all() for a, b in pairs)  # or all are nan


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.5}, {"seed": 1}, {"batch_size": 8}, {"weight_decay": 0.0}, {"warmup": 0.5},
        {"dtype": "bfloat16"}, {"schedule": "wsd"}, {"label_smoothing": 0.1}, {"num_epochs": 2},
        {"max_grad_norm": 0.0}, {"optimizer": "lion"},
    ],
)  # fmt: skip
def test_a_changed_flag_changes_the_fingerprint(
    changes: dict[str, Any], base: PretrainOptions, corpus: Corpus
) -> None:
    prints = [
        fingerprint(experiment.stage, experiment.pipe, corpus.tokenizer)
        for experiment in (build(options, corpus) for options in (base, replace_flags(base, **changes)))
    ]
    assert prints[0] != prints[1]


def test_the_number_of_steps_follows_from_epochs_or_max_steps(base: PretrainOptions, corpus: Corpus) -> None:
    assert len(make_pipe(base, corpus)) == 25  # 1000 predictions, 10 a row, 4 rows a step
    assert len(make_pipe(replace_flags(base, num_epochs=3), corpus)) == 75
    assert len(make_pipe(replace_flags(base, max_steps=7), corpus)) == 7
    assert len(make_pipe(replace_flags(base, max_steps=60), corpus)) == 60  # more than one epoch has
    assert torch.equal(
        make_pipe(replace_flags(base, max_steps=60), corpus)[0]["tokens"],
        make_pipe(base, corpus)[0]["tokens"],
    )


def test_a_corpus_too_short_for_one_row_is_refused_with_a_length_that_fits(
    base: PretrainOptions, corpus: Corpus
) -> None:
    short = corpus._replace(train=memory_store([[1, 2, 3, 4]], vocab_size=264))
    with pytest.raises(
        ValueError, match=r"--data_path embedded: the training split has 4 tokens.*or --max_length 3$"
    ):
        build(base, short)
    assert len(make_pipe(replace_flags(base, max_length=3), short)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "--batch_size: expected at least 1, got 0"),
        ({"max_length": 0}, "--max_length: expected at least 1"),
        ({"num_epochs": -1}, "--num_epochs: expected at least 1"),
        ({"max_steps": 0}, "--max_steps: expected at least 1, got 0; leave it out"),
        ({"keep_last": 0}, "--keep_last: expected at least 1"),
        ({"gradient_accumulation": 3}, "--gradient_accumulation 3 does not divide --batch_size 4"),
        ({"ema": 1.0}, r"--ema: expected a decay in \(0, 1\)"),
        (
            {"max_length": 65},
            "--max_length 65 exceeds the model's max_position_embeddings 64; shorten the rows",
        ),
        ({"device": "tpu"}, "--device tpu: expected auto, cpu or cuda"),
        ({"config": "configs/tiny_config.py"}, "type --config tiny_config"),
    ],
)
def test_invalid_flags_are_refused_before_any_work(
    changes: dict[str, Any], message: str, base: PretrainOptions
) -> None:
    with pytest.raises(ValueError, match=message):
        check(replace_flags(base, **changes))


def test_a_tokenizer_larger_than_the_model_is_refused_before_any_work(
    base: PretrainOptions, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "narrow.json", vocab_size=262)
    given = tokenizers.save(tokenizers.train(["low lower lowest"], 264), tmp_path / "given.json")
    with pytest.raises(
        ValueError, match=r"the tokenizer has 264 ids, but --config \S+narrow.json has vocab_size 262"
    ):
        check(replace_flags(base, config=str(config), tokenizer_path=str(given)))
    check(replace_flags(base, tokenizer_path=str(given)))


def test_an_empty_data_path_is_refused(base: PretrainOptions) -> None:
    with pytest.raises(ValueError, match="--data_path: expected text, got an empty one"):
        check(replace_flags(base, data_path=""))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(base: PretrainOptions) -> None:
    with pytest.raises(ValueError, match="--device cuda: torch sees no GPU here"):
        check(replace_flags(base, device="cuda"))


def test_a_skipped_step_does_not_advance_the_logged_learning_rate(
    base: PretrainOptions, corpus: Corpus
) -> None:
    options = replace_flags(base, learning_rate=1.0, warmup=10, schedule="constant")
    experiment = build(options, corpus)
    state = experiment.stage.init(experiment.key)
    rates = []
    for number in range(4):
        state = experiment.stage.step(state, experiment.pipe[number])
        if number == 1:
            params = state.params
            state = state._replace(params=tree.map(lambda x: x * torch.nan, params))
            state = experiment.stage.step(state, experiment.pipe[number])._replace(params=params)
        rates.append(round(float(learning_rate(state, schedule=experiment.schedule)["learning_rate"]), 6))
    assert rates == [0.0, 0.1, 0.2, 0.3]


def test_the_description_of_a_run_is_plain_json(base: PretrainOptions, corpus: Corpus) -> None:
    import json

    experiment = build(base, corpus)
    written = json.loads(json.dumps(config_file.describe_run(base, experiment.base.model.config, None)))
    assert written["options"]["batch_size"] == 4
    assert written["model"]["hidden_size"] == 16
    assert written["torch"] == torch.__version__
