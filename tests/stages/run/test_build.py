"""From flags to an experiment: `build_sft`, `build_preferences`, `build_online`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipes.chat.presets import NAMED
from pure import tree
from stages.checkpoint.fingerprint import fingerprint
from stages.models import language_model
from stages.run import build as builders
from stages.run.experiment import Experiment, Say
from stages.run.options import tuning as flags
from tests.stages.models.test_language_model import make_model
from tests.stages.small_stages import write_model, write_rows

STAGES = flags.STAGES


def build(folder: Path, name: str, say: Say = lambda text: None, **changes: Any) -> Experiment:
    if not (folder / "model").exists():
        write_model(folder)
        write_rows(folder)
    online = {"max_new_tokens": 5, "max_length": 32} if name in ("grpo", "ppo") else {"max_length": 64}
    options = {
        "model_path": str(folder / "model"),
        "data_path": str(folder / f"{name}.jsonl"),
        "batch_size": 4,
        "compile": False,
        "held_out": 4,
        "output_dir": str(folder / "run"),
        **online,
    } | changes
    chosen_flags = STAGES[name](**options)
    builders.check(chosen_flags)
    return builders.build(chosen_flags, say=say)


@pytest.mark.parametrize("name", STAGES)
def test_building_twice_gives_the_same_pipe_and_a_step_works(name: str, tmp_path: Path) -> None:
    experiment, again = build(tmp_path, name), build(tmp_path, name)
    assert fingerprint(experiment.pipe) == fingerprint(again.pipe)
    state = experiment.stage.init(experiment.key, experiment.params)
    after = experiment.stage.step(state, experiment.pipe[0])
    assert after.metrics["loss"].isfinite()
    assert len(experiment.pipe) == (3 if name == "sft" else 5)
    assert {"learning_rate"} <= set(experiment.observe(after))
    assert "val_loss" in experiment.validate(after.params)


def test_max_steps_or_epochs_set_the_number_of_steps(tmp_path: Path) -> None:
    assert len(build(tmp_path, "sft", max_steps=77).pipe) == 77
    assert len(build(tmp_path, "sft", num_epochs=3, packing=False).pipe) == 15


def test_dpo_stores_the_reference_and_orpo_needs_none(tmp_path: Path) -> None:
    assert "reference_chosen" in build(tmp_path, "dpo").pipe[0]
    assert "reference_chosen" not in build(tmp_path, "dpo", variant="orpo").pipe[0]


@pytest.mark.parametrize(
    ("labels", "changes", "expected"),
    [
        ("1100", {}, "labels: 2 desirable, 2 undesirable"),
        ("1110", {}, "labels: 3 desirable, 1 undesirable; --undesirable_weight 3 would balance their losses"),
        ("1110", {"undesirable_weight": 3.0}, "labels: 3 desirable, 1 undesirable"),
        (
            "1000",
            {"desirable_weight": 2.0},
            "labels: 1 desirable, 3 undesirable; --undesirable_weight 0.667 would",
        ),
        ("0000", {}, "labels: 0 desirable, 4 undesirable; KTO learns from both kinds, and one is missing"),
    ],
)
def test_kto_reports_the_balance_of_its_labels(
    tmp_path: Path, labels: str, changes: dict[str, Any], expected: str
) -> None:
    write_model(tmp_path)
    rows = [
        {"prompt": f"Add {i}", "completion": f"{i}", "label": int(label)} for i, label in enumerate(labels)
    ]
    (tmp_path / "kto.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines: list[str] = []
    build(tmp_path, "kto", lines.append, held_out=0, **changes)
    (message,) = (text for text in lines if text.startswith("labels:"))
    assert message.startswith(expected)
    assert ("would" in message) == ("would" in expected)


@pytest.mark.parametrize("name", STAGES)
def test_dropout_of_the_adapters_preset_without_effect_is_reported(name: str, tmp_path: Path) -> None:
    changes = [{}, {"disable_dropout": False}] if name in ("reward", "dpo", "kto") else [{}]
    reports = []
    for change in changes:
        lines: list[str] = []
        build(tmp_path, name, lines.append, lora="balanced", **change)
        reports.append(any("trains without dropout, so their dropout of" in line for line in lines))
    assert reports == [name != "sft", False][: len(changes)]


def test_the_schedule_counts_updates_not_steps(tmp_path: Path) -> None:
    experiment = build(tmp_path, "ppo", epochs=3, final_learning_rate=0.0, warmup=0)
    assert experiment.schedule(torch.tensor(3 * len(experiment.pipe))) == 0
    assert experiment.schedule(torch.tensor(3 * len(experiment.pipe) - 2)) > 0


def test_the_chat_template_of_a_model_is_kept_and_saved(tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
    )
    language_model.save(
        tmp_path / "model", make_model(max_position_embeddings=128)._replace(chat_template=source)
    )
    write_rows(tmp_path)
    experiment = build(tmp_path, "sft")
    assert experiment.base.chat_template == source
    saved = language_model.load(language_model.save(tmp_path / "again", experiment.base))
    assert saved.chat_template == source
    assert tree.leaves(saved.params)[0].dtype == torch.float32


def test_a_chat_template_is_chosen_by_name(tmp_path: Path) -> None:
    experiment = build(tmp_path, "sft", chat_template="qwen3", template_kwargs='{"enable_thinking": false}')
    assert experiment.template.source == NAMED["qwen3"]
    assert dict(experiment.template.variables) == {"enable_thinking": False}
    with pytest.raises(FileNotFoundError, match=r"--chat_template qwen4: .* one of chatml, deepseek-r1"):
        build(tmp_path, "sft", chat_template="qwen4")
    with pytest.raises(ValueError, match=r"--template_kwargs: expected a JSON object"):
        build(tmp_path, "sft", template_kwargs="enable_thinking=false")
    with pytest.raises(ValueError, match="uses no variable 'thinking'"):
        build(tmp_path, "sft", chat_template="qwen3", template_kwargs='{"thinking": false}')
