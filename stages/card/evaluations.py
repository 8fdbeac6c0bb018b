"""Read evaluations of a run's model: figures with intervals, and the command that computed them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes import files
from stages.evaluate.compare import Z_95
from stages.evaluate.options import EvaluateOptions
from stages.evaluate.record import RESULTS
from stages.models.hardware import DTYPES


class Row(NamedTuple):
    """A figure of an evaluation.

    Fields:
        task, figure: names.
        value: NaN if it was not finite.
        low, high: its 95% confidence interval, value ± 1.96 standard errors; NaN without one.
        count: questions, or groups of questions.
    """

    task: str
    figure: str
    value: float
    low: float
    high: float
    count: int  # type: ignore[assignment]


class Evaluation(NamedTuple):
    """An evaluation of a run's model.

    Fields:
        folder: its --output_dir.
        rows: its figures.
        flags: that differ from their defaults, of `intro2llm evaluate`; None if they are not recorded.
        in_run: the run itself made it, before its first step or after its last, as the demo does.
        versions: and machine.
    """

    folder: Path
    rows: tuple[Row, ...]
    flags: Mapping[str, Any] | None
    in_run: bool
    versions: Mapping[str, Any]


def read_evaluations(
    folder: Path, model: Path, others: Sequence[Path]
) -> tuple[tuple[Evaluation, ...], tuple[str, ...]]:
    """Read the evaluations of a model, in its run's folder and elsewhere.

    An evaluation has the digest of the weights that it evaluated; only those of this model are taken.

    Args:
        folder: of the run; its folders, and those of RUN/evaluation, are looked through.
        model: its final_model.
        others: folders of further evaluations.

    Returns:
        (evaluations, sentences on those in the run's folder that were left out).

    Raises:
        FileNotFoundError: if one of `others` has no results.
        ValueError: if one of `others` is of another model, or a file is damaged.
    """
    found, notes = list[Evaluation](), list[str]()
    inside = [*folder.glob(f"*/{RESULTS}"), *folder.glob(f"evaluation/*/{RESULTS}")]
    given = [Path(other) / RESULTS for other in others]
    for path in given:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; expected the --output_dir of an intro2llm evaluate")
    known = {path.resolve() for path in given}
    digests: dict[str, set[str]] = {}
    for path in [*sorted(path for path in inside if path.resolve() not in known), *given]:
        fields = files.read_json(path)
        if not isinstance(fields.get("results"), dict) or "model_sha256" not in fields:
            continue
        if fields["model_sha256"] in _hash_model(model, fields, digests):
            found.append(_make(path, fields))
        elif path in given:
            raise ValueError(
                f"{path}: an evaluation of another model: its model_sha256 is not that of {model}; evaluate "
                f"this one, with intro2llm evaluate --model_path {folder}"
            )
        elif path.parent.name != "before":
            notes.append(f"the evaluation in {path.parent.name} is of other weights, and was left out")
    return tuple(found), tuple(notes)


def _hash_model(model: Path, fields: Mapping[str, Any], cache: dict[str, set[str]]) -> set[str]:
    """Digests of the model in the dtypes in which the evaluation may have read it."""
    from stages.evaluate.build import hash_params
    from stages.models import language_model

    options = fields.get("options")
    name = str(options.get("dtype")) if isinstance(options, dict) else "float32"
    names = ("float32", "bfloat16") if name == "auto" else (name,)
    for each in names:
        if each not in cache:
            cache[each] = {hash_params(language_model.load(model, dtype=dict(DTYPES).get(each)).params)}
    return set().union(*(cache[each] for each in names))


def _make(path: Path, fields: Mapping[str, Any]) -> Evaluation:
    """The evaluation of a results.json."""
    try:
        rows = [
            _make_row(task, name, figure)
            for task, figures in fields["results"].items()
            for name, figure in figures.items()
        ]
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: not the results of an evaluation ({error!r:.100}); evaluate again"
        ) from None
    flags, versions = fields.get("flags"), fields.get("environment")
    return Evaluation(
        path.parent,
        tuple(rows),
        _changed(flags) if isinstance(flags, dict) else None,
        "rung" in fields,
        versions if isinstance(versions, dict) else {},
    )


def _make_row(task: str, name: str, figure: Mapping[str, Any]) -> Row:
    """A figure with its interval."""
    value, stderr = (
        math.nan if figure[part] is None else float(figure[part]) for part in ("value", "stderr")
    )
    if stderr == 0:  # all questions scored alike: no spread to estimate an interval from
        stderr = math.nan
    return Row(task, name, value, value - Z_95 * stderr, value + Z_95 * stderr, int(figure["count"]))


def _changed(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of an evaluation that differ from their defaults; its model, tasks and folder in any case."""
    defaults = {
        field.name: json.loads(json.dumps(_default(field))) for field in dataclasses.fields(EvaluateOptions)
    }
    always = ("model_path", "task", "output_dir")
    return {name: x for name, x in flags.items() if name in always or defaults.get(name, ...) != x}


def _default(field: dataclasses.Field[Any]) -> Any:
    """The default of a flag; None for one that is required."""
    return None if field.default is dataclasses.MISSING else field.default
