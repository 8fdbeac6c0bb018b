"""`intro2llm sft`, `dpo`, `grpo` and the other stages train, resume to the same bits and refuse bad input.

The rewards of online runs (`stages/run/rewards/scorer.py`) are tested here too.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from stages.checkpoint import checkpoint
from stages.cli.main import main
from stages.models import language_model, reward_model
from tests.stages.models.test_language_model import make_model
from tests.stages.small import rows, same_run
from tests.stages.small_stages import NAMES, flags, run, write_model, write_rows

every_stage = pytest.mark.parametrize("name", NAMES)


@every_stage
def test_each_stage_trains_and_saves_a_model_that_loads(name: str, tmp_path: Path) -> None:
    assert run(tmp_path, name) == 0
    load = reward_model.load if name == "reward" else language_model.load
    start, end = language_model.load(tmp_path / "model"), load(tmp_path / name)
    assert end.model.config == start.model.config
    params = end.params["model"] if name == "reward" else end.params
    assert not torch.equal(params["embedding"], start.params["embedding"])
    log = rows(tmp_path / name)
    assert [row["step"] for row in log] == list(range(1, 7))
    assert "val_loss" in log[-1]
    assert json.loads((tmp_path / name / "config.json").read_text())["stage"] == name


@every_stage
def test_a_killed_run_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    """As after a kill, the last checkpoints and the final model are missing, and the log is ahead."""
    assert run(tmp_path, name) == 0
    shutil.copytree(tmp_path / name, tmp_path / "whole")
    shutil.rmtree(tmp_path / name / "final_model")
    for path in checkpoint.list_saved(tmp_path / name):
        if checkpoint.step_of(path) > 4:
            shutil.rmtree(path)
    assert run(tmp_path, name) == 0
    assert same_run(tmp_path / name, tmp_path / "whole")
    if name in ("grpo", "ppo"):
        one, other = ((tmp_path / x / "completions.jsonl").read_text() for x in (name, "whole"))
        assert one == other


def test_grpo_uses_the_models_of_the_sft_and_reward_stages(tmp_path: Path) -> None:
    """pretrained -> sft -> reward -> grpo, rewarded by the reward model."""
    assert run(tmp_path, "sft", max_steps=2) == 0
    assert run(tmp_path, "reward", max_steps=2, model_path=tmp_path / "sft") == 0
    assert run(tmp_path, "grpo", max_steps=2, model_path=tmp_path / "sft", reward=tmp_path / "reward") == 0
    assert "rewards/model/mean" in rows(tmp_path / "grpo")[-1]


def test_dpo_starts_from_the_model_that_sft_saved(tmp_path: Path) -> None:
    write_model(tmp_path)
    files = write_rows(tmp_path)
    common = ["--no_compile", "--device", "cpu", "--max_length", "64"]
    assert (
        main(
            [
                "sft",
                "--model_path",
                str(tmp_path / "model"),
                "--data_path",
                str(files["sft"]),
                "--output_dir",
                str(tmp_path / "a"),
                "--batch_size",
                "4",
                "--num_epochs",
                "3",
                "--learning_rate",
                "2e-5",
                *common,
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "dpo",
                "--model_path",
                str(tmp_path / "a"),
                "--data_path",
                str(files["dpo"]),
                "--output_dir",
                str(tmp_path / "b"),
                "--beta",
                "0.1",
                *common,
            ]
        )
        == 0
    )


def test_grpo_completions_are_recorded_with_their_rewards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "grpo") == 0
    lines = [json.loads(line) for line in (tmp_path / "grpo" / "completions.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    for answer in lines[0]["answers"]:
        assert answer["rewards"]["short"] == pytest.approx(-len(answer["completion"]) / 10)
        assert answer["prompt"].startswith("Add ")
    assert "step 2: reward | prompt | completion" in capsys.readouterr().out


def test_resuming_with_a_changed_reward_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of the reward function, or a column of the rows that it may read, has changed."""
    changes = {"max_steps": 2, "reward_weights": 2.0, "top_p": 0.9, "top_k": 50, "mask_truncated": True}
    assert run(tmp_path, "grpo", **changes) == 0
    arguments = flags(tmp_path, "grpo", **changes)
    source, rows_file = tmp_path / "short.py", tmp_path / "grpo.jsonl"
    for file, old, new, message in (
        (source, "-len", "-2 * len", "reward short's file short.py has other contents"),
        (rows_file, '"is"', '"was"', "the rows' column answer has other contents"),
    ):
        text = file.read_text()
        file.write_text(text.replace(old, new, 1))
        assert main(["grpo", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
        file.write_text(text)
    assert main(["grpo", *arguments]) == 0


def test_a_run_resumes_with_the_same_base_model_at_another_path_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's folder, its final_model, a relative path, a link and a copy are the same base."""
    base, link, copy = tmp_path / "run", tmp_path / "link", tmp_path / "copy"
    write_model(base)
    (base / "model").rename(base / "final_model")
    link.symlink_to(base)
    shutil.copytree(base / "final_model", copy)
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path)
    write_rows(tmp_path)
    assert run(tmp_path, "sft", max_steps=2, model_path=base) == 0
    for same in ("run", "run/", "./run/final_model", "../" + tmp_path.name + "/run", str(link), str(copy)):
        assert run(tmp_path, "sft", max_steps=2, model_path=same) == 0, same
    language_model.save(copy, make_model(max_position_embeddings=128, initializer_range=0.5))
    assert run(tmp_path, "sft", max_steps=2, model_path=copy) == 2
    error = capsys.readouterr().err
    assert "the model of --model_path has other contents" in error
    assert len(error.splitlines()) == 1


def test_a_run_resumes_with_the_same_reward_model_at_another_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, "reward", max_steps=2) == 0
    monkeypatch.chdir(tmp_path)
    for same in (tmp_path / "reward", "reward/", "./reward/final_model"):
        assert run(tmp_path, "grpo", max_steps=2, reward=same) == 0, same
    assert run(tmp_path, "reward", max_steps=3, output_dir=tmp_path / "other") == 0
    assert run(tmp_path, "grpo", max_steps=2, reward=tmp_path / "other") == 2
    assert "reward model's weights has other contents" in capsys.readouterr().err


def test_rewards_that_are_equal_in_every_group_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "same.py").write_text("def same(prompt, completion, row):\n    return 1\n")
    assert run(tmp_path, "grpo", max_steps=2, reward=f"{tmp_path / 'same.py'}:same") == 0
    out = capsys.readouterr().out
    assert "the reward is equal in 4 of 4 groups: nothing to learn from" in out


BAD_ROWS = (
    ("sft", {"messages": [{"role": "user", "content": "a"}]}, "no turn of the assistant"),
    ("sft", {"text": "a"}, "expected the columns"),
    ("dpo", {"prompt": "a", "chosen": "b", "rejected": "b"}, "equal"),
    ("grpo", {"question": ""}, "prompt is empty"),
)


@pytest.mark.parametrize(("name", "row", "message"), BAD_ROWS)
def test_a_bad_row_is_refused_by_name_or_skipped(
    name: str, row: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(tmp_path, name, max_steps=1)
    with (tmp_path / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    assert main([name, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert f"{name}.jsonl:25" in error
    assert "--on_bad skip" in error
    assert main([name, *arguments, "--on_bad", "skip"]) == 0
    assert message in (tmp_path / name / "bad_rows.jsonl").read_text()


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("def f(p, c, r):\n    return 1 / (len(c) % 2)\n", "raised ZeroDivisionError"),
        ("def f(p, c, r):\n    return len(c) if len(c) % 2 else float('nan')\n", "gave nan"),
        ("def g(p, c, r):\n    return 1\n", "has no function 'f'; it has g"),
    ],
)
def test_a_bad_reward_is_refused_with_its_prompt_or_skipped(
    reward: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(reward)
    changes = {"max_steps": 1, "reward": f"{tmp_path / 'mine.py'}:f"}
    assert run(tmp_path, "grpo", **changes) == 2
    error = capsys.readouterr().err
    assert message in error
    if "'f'" not in message:
        assert "for the prompt 'Add" in error
        assert run(tmp_path, "grpo", **changes, on_bad_reward="skip") == 0


BAD_FLAGS = [
    ("sft", {"max_length": 4000}, "max_position_embeddings 128"), ("sft", {"batch_size": 0}, "--batch_size"),
    ("sft", {"gradient_accumulation": 3}, "does not divide"), ("grpo", {"reward": "right"}, "expected correct"),
    ("grpo", {"reward": "none.py:f"}, "there is no file none.py"), ("sft", {"max_steps": 0}, "--max_steps"),
    ("sft", {"lora_rank": 4}, "need --lora"),
    ("sft", {"chat_template": "none.jinja"}, "--chat_template none.jinja"),
    ("grpo", {"samples": 1}, "--samples 1"), ("ppo", {"minibatches": 3}, "--minibatches 3"),
    ("sft", {"held_out": 0, "eval_every": 3}, "--eval_every 3 needs validation rows"),
    ("sft", {"model_path": "nowhere"}, "nowhere"), ("sft", {"data_path": "nowhere.jsonl"}, "nowhere.jsonl"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "message"), BAD_FLAGS)
def test_flags_that_cannot_work_are_refused_in_one_line(
    name: str, changes: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, name, **changes) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


BAD_TEMPLATES = [
    ("{% for %}", "does not compile: line 1"),
    ("{% for m in messages %}{{ m.content }}<|no_such|>{% endfor %}", "ends with <|no_such|>, which is no token"),
    ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "loop without end"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "message"), BAD_TEMPLATES)
def test_a_template_that_cannot_work_is_refused(
    template: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.jinja").write_text(template)
    assert run(tmp_path, "sft", chat_template=tmp_path / "t.jinja") == 2
    assert message in capsys.readouterr().err


def test_a_model_whose_tokenizer_has_no_end_of_turn_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from data_pipes import tokenizer as tokenizers
    from tests.stages.models.test_language_model import TEXT, make_model

    plain = make_model(max_position_embeddings=128)._replace(
        tokenizer=tokenizers.train(TEXT, 280, special_tokens=["<|endoftext|>"])
    )
    language_model.save(tmp_path / "plain", plain)
    assert run(tmp_path, "sft", model_path=tmp_path / "plain") == 2
    assert "its tokenizer lacks the tokens of ChatML" in capsys.readouterr().err


def test_resuming_with_other_flags_or_rows_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "sft", max_steps=2) == 0
    assert run(tmp_path, "sft", max_steps=2, learning_rate=0.5) == 2
    assert "--learning_rate was 0.003, is 0.5" in capsys.readouterr().err
    (tmp_path / "sft.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 24)
    assert run(tmp_path, "sft", max_steps=2) == 2
    assert "pipe" in capsys.readouterr().err


@every_stage
def test_replay_computes_equal_bits_for_each_stage(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, name) == 0
    for step in ("1", "6"):
        assert main(["replay", str(tmp_path / name), "--step", step]) == 0
        assert f"step {step}: equal, bit for bit" in capsys.readouterr().out
