"""Render the facts of a run as the front matter and the Markdown of its card.

The fields are those of the hub's documentation: https://huggingface.co/docs/hub/model-cards. `base_model` and
`datasets` hold names on the hub only, as the hub refuses a card with paths there.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.card.evaluations import Evaluation
from stages.card.private import WITHOUT_EFFECT, clean, publish, publish_text, render_command
from stages.card.record import Facts, is_dataset_name
from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import STAGES

UNKNOWN = "unknown"
FILES_SHOWN = 8
"""Most files of data that are listed one by one."""

LIBRARIES: Mapping[str, str] = {"model": "transformers", "reward model": "transformers", "adapters": "peft"}
TASKS: Mapping[str, str] = {
    "model": "text-generation",
    "reward model": "text-classification",
    "adapters": "text-generation",
}


def make_front(facts: Facts, home: str) -> dict[str, str | list[str]]:
    """Make the fields of the front matter; one that is unknown is left out.

    Args:
        facts: of the run.
        home: the user's home folder, which is not published.
    """
    kind, run = facts.weights.kind, facts.run
    named = [base.path for base in facts.bases if base.on_hub]
    data = str(run.flags.get("data_path", ""))
    fields: dict[str, str | list[str]] = {"library_name": LIBRARIES[kind], "pipeline_tag": TASKS[kind]}
    if named:
        relation = "adapter" if kind == "adapters" else "finetune"
        fields |= {"base_model": named[:1], "base_model_relation": relation}
    if is_dataset_name(data, facts.data):
        fields["datasets"] = [publish("data_path", data, home)]
    return fields | {"tags": [tag for tag in ("intro2llm", run.stage, "lora" * (kind == "adapters")) if tag]}


def make_body(facts: Facts, home: str) -> str:
    """Make the generated Markdown.

    Args:
        facts: of the run.
        home: the user's home folder, which is not published.
    """
    parts = [
        "This section was written by `intro2llm card` from the files of the run. Paths are as they were "
        "typed; of absolute ones the last part is left. What is not known is left out, or said to be "
        "unknown.",
        "## Model",
        _describe_model(facts),
        "## Training",
        _describe_training(facts, home),
        "### Data",
        _describe_data(facts, home),
        "### Flags",
        _describe_flags(facts, home),
        "## Figures",
        _describe_figures(facts, home),
        "## Versions",
        _describe_versions(facts),
    ]
    return "\n\n".join(parts)


def make_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a table of Markdown; cells are Markdown already.

    Example:
        >>> print(make_table(["flag", "value"], [["`--seed`", "3"]]))
        | flag | value |
        | --- | --- |
        | `--seed` | 3 |
    """
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def make_code(text: str) -> str:
    """Make a code span of any text; "|" is escaped, as in cells of tables.

    Example:
        >>> make_code("a|b"), make_code("a `b`")
        ('`a\\\\|b`', '`` a `b` ``')
    """
    text = clean(text).replace("|", "\\|")
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text or text != text.strip() or not text else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def make_block(text: str) -> str:
    """Make a block of a command, which may hold any text."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}bash\n{clean(text)}\n{ticks}"


def _describe_model(facts: Facts) -> str:
    """Architecture, size, dtype, vocabulary, context."""
    weights, config = facts.weights, {**facts.run.model, **facts.weights.config}
    rows = [["architecture", ", ".join(map(str, config.get("architectures") or [])) or UNKNOWN]]
    if weights.kind == "adapters":
        targets = ", ".join(map(str, config.get("target_modules") or ())) or UNKNOWN
        shape = f"rank {config.get('r', UNKNOWN)}, alpha {config.get('lora_alpha', UNKNOWN)}, on {targets}"
        rows = [["adapters", clean(f"LoRA of PEFT, {shape}")]]
    dtypes = ", ".join(weights.dtypes) or UNKNOWN
    rows += [
        ["parameters", f"{weights.count:,} in {dtypes}" + " (adapters only)" * (weights.kind == "adapters")]
    ]
    for title, name in (
        ("layers", "num_hidden_layers"),
        ("width", "hidden_size"),
        ("heads", "num_attention_heads"),
        ("vocabulary", "vocab_size"),
        ("context in tokens", "max_position_embeddings"),
    ):
        rows.append([title, f"{config[name]:,}" if isinstance(config.get(name), int) else UNKNOWN])
    rows += [[f"sha256 of {make_code(name)}", make_code(digest)] for name, digest in weights.digests.items()]
    return make_table(["", ""], rows)


def _describe_training(facts: Facts, home: str) -> str:
    """Stage, end, base models and the command."""
    run = facts.run
    took = f", {facts.seconds:,.0f} s" if facts.seconds else ""
    rows = [["stage", clean(run.stage) or UNKNOWN], ["steps", f"{run.steps:,}{took}"]]
    if (tokens := run.curves.get("tokens")) is not None:
        total = sum(value for value in tokens.values if not math.isnan(value))
        rows.append(["tokens that the loss was computed on", f"{total:,.0f}"])
    for place, base in enumerate(facts.bases):
        what = f"run of {clean(base.stage)}, " if base.stage else ""
        digest = (
            f"sha256 of its weights' numbers {make_code(base.digest)}" if base.digest else "sha256 unknown"
        )
        license = f", licence {make_code(base.license)}" if base.license else ", licence unknown"
        path = make_code(publish("model_path", base.path, home))
        rows.append(
            ["started from" if not place else "which started from", f"{path} ({what}{digest}{license})"]
        )
    if not facts.bases:
        rows.append(["started from", "random weights" if run.stage == "pretrain" else UNKNOWN])
    return "\n\n".join([make_table(["", ""], rows), make_block(_command(facts, home))])


def _describe_data(facts: Facts, home: str) -> str:
    """The path of the data, its digests and sizes."""
    path = str(facts.run.flags.get("data_path", ""))
    rows = [["`--data_path`", make_code(publish("data_path", path, home)) if path else UNKNOWN]]
    if path == "embedded":
        rows[0][1] += " (made by intro2llm, or read from Python's own library)"
    listed = facts.data.get("files") or []
    for file in listed[:FILES_SHOWN] if len(listed) <= FILES_SHOWN else []:
        rows.append(
            [make_code(publish("data_path", file["name"], home)), _sized(file["bytes"], file["sha256"])]
        )
    if len(listed) > FILES_SHOWN:
        size = sum(file["bytes"] for file in listed)
        rows.append(
            [f"{len(listed):,} files", _sized(size, facts.data.get("sha256", UNKNOWN)) + ", of the list"]
        )
    if not listed and path != "embedded":
        rows.append(["files", f"{UNKNOWN}: no digest of them was recorded"])
    rows += [[f"rows, {part}", f"{count:,}"] for part, count in (facts.data.get("rows") or {}).items()]
    if facts.tokens:
        store = facts.tokens
        rows.append(["tokens to train on", f"{store['tokens']:,} in {store['documents']:,} documents"])
        rows.append(["digest of these tokens", make_code(str(store["digest"]))])
    license = facts.data_license
    return make_table(["", ""], [*rows, ["licence", make_code(license) if license else UNKNOWN]])


def _sized(size: int, digest: str) -> str:
    """Size and digest of files."""
    return f"{size:,} bytes, sha256 {make_code(digest)}"


def _describe_flags(facts: Facts, home: str) -> str:
    """The flags that differ from their defaults."""
    if not facts.run.flags:
        return "Unknown: the run has no config.json, as one that was made in Python."
    flags = {name: x for name, x in _changed_flags(facts, home).items() if name != "output_dir"}
    if not flags:
        return "All flags have their defaults."
    shown = {
        name: x if isinstance(x, str) else json.dumps(x, ensure_ascii=False) for name, x in flags.items()
    }
    return "Those that differ from their defaults:\n\n" + make_table(
        ["flag", "value"], [[make_code(f"--{name}"), make_code(text)] for name, text in shown.items()]
    )


def _changed_flags(facts: Facts, home: str) -> dict[str, Any]:
    """Flags that differ from their defaults, as they may be published."""
    flags, stage = facts.run.flags, facts.run.stage
    kind = PretrainOptions if stage == "pretrain" else STAGES.get(stage)
    defaults: Mapping[str, Any] = {}
    if kind is not None:
        fields = dataclasses.fields(kind)
        defaults = {x.name: x.default for x in fields if x.default is not dataclasses.MISSING}
    plain = {name: list(x) if isinstance(x, tuple) else x for name, x in defaults.items()}
    return {
        name: publish(name, value, home)
        for name, value in flags.items()
        if plain.get(name, ...) != value and name not in WITHOUT_EFFECT
    }


def _command(facts: Facts, home: str) -> str:
    """The command that trains the model again."""
    stage = facts.run.stage
    return render_command(stage, _changed_flags(facts, home)) if stage else "# the command is unknown"


def _describe_figures(facts: Facts, home: str) -> str:
    """Validation at the end of training, gains and evaluations, each with its command."""
    parts = [*_describe_validation(facts, home), *_describe_gains(facts)]
    for evaluation in facts.evaluations:
        parts += _describe_evaluation(evaluation, home)
    parts += [f"({publish_text(note, home)}.)" for note in (*facts.run.notes, *facts.notes)]
    return "\n\n".join(parts) or (
        "None: no validation was logged, and the model was not evaluated. `intro2llm evaluate` does that, "
        "and `intro2llm card` then writes the figures here."
    )


def _describe_validation(facts: Facts, home: str) -> list[str]:
    """The last validation of the run, or the best of one that stopped early."""
    curves = {
        name: curve
        for name, curve in facts.run.curves.items()
        if name.startswith("val_") and len(curve.steps)
    }
    loss = curves.get("val_loss")
    if not curves:
        return []
    place = -1
    if loss is not None and facts.run.end.startswith("stopped early"):
        place = min(range(len(loss.values)), key=lambda k: loss.values[k])
    step = int((loss or next(iter(curves.values()))).steps[place])
    rows = []
    for name, curve in curves.items():
        values = [float(x) for s, x in zip(curve.steps, curve.values, strict=True) if int(s) == step]
        rows += [[make_code(name), f"{values[-1]:.6g}"]] if values else []
    return [
        f"Validation on held-out data at step {step:,}, by the training itself (no interval was computed):",
        make_table(["figure", "value"], rows),
        make_block(_command(facts, home)),
    ]


def _describe_gains(facts: Facts) -> list[str]:
    """Figures before and after the stage."""
    if not facts.run.gains:
        return []
    rows = [
        [
            make_code(gain.name),
            f"{gain.before:.4g}",
            f"{gain.after:.4g}",
            f"{gain.low:+.4g} to {gain.high:+.4g}",
            f"{gain.count:,}" if gain.count else UNKNOWN,
        ]
        for gain in facts.run.gains
    ]
    heads = ["task", "before the stage", "after it", "95% interval of the difference", "questions"]
    return ["Before the first step and after the last, on the same questions:", make_table(heads, rows)]


def _describe_evaluation(evaluation: Evaluation, home: str) -> list[str]:
    """Figures of an evaluation with the command that computes them."""
    rows = [
        [
            make_code(row.task),
            make_code(row.figure),
            "not finite" if math.isnan(row.value) else f"{row.value:.6g}",
            UNKNOWN if math.isnan(row.low) else f"{row.low:.6g} to {row.high:.6g}",
            f"{row.count:,}",
        ]
        for row in evaluation.rows
    ]
    heads = ["task", "figure", "value", "95% interval", "of"]
    note = "The interval is the value ± 1.96 standard errors; unknown where all questions scored alike."
    table = f"{make_table(heads, rows)}\n\n{note}"
    title = f"Evaluation {make_code(evaluation.folder.name)}:"
    if evaluation.flags is not None:
        flags = {name: publish(name, value, home) for name, value in evaluation.flags.items()}
        return [title, table, make_block(render_command("evaluate", flags))]
    if evaluation.in_run:
        return [title, table, "`intro2llm demo` computes it after the stage's last step."]
    return [title, table, "The command is unknown: an earlier version did not record the flags."]


def _describe_versions(facts: Facts) -> str:
    """Versions and machine."""
    rows = [[make_code(str(name)), clean(str(value))] for name, value in facts.run.versions.items()]
    return make_table(["", ""], rows) if rows else "Unknown: the run has no checkpoint any more."
