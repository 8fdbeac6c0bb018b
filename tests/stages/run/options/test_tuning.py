"""Options of the tuning stages: plain values, a help text for each flag, no heavy imports."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from typing import get_args, get_type_hints

import pytest

from pure.loss import dpo, grpo, kl
from stages.run.options import tuning as flags

KINDS = tuple(flags.STAGES.values())


@pytest.mark.parametrize("kind", KINDS)
def test_tuning_options_round_trip_through_json(kind: type) -> None:
    options = kind(model_path="a", max_steps=3, ema=0.9)
    read = json.loads(json.dumps(dataclasses.asdict(options)))
    for name, value in read.items():
        if isinstance(value, list):
            read[name] = tuple(value)
    assert kind(**read) == options


@pytest.mark.parametrize("kind", [*KINDS, flags.TuningOptions, flags.OnlineOptions])
def test_every_flag_has_help(kind: type) -> None:
    lines = inspect.getsource(kind).splitlines()
    for i, line in enumerate(lines):
        is_indented_code = line.startswith("    ") and not line.strip().startswith('"')
        is_field = ":" in line and "=" in line.split('"""')[0]
        if is_indented_code and is_field:
            assert lines[i + 1].strip().startswith('"""'), line


def test_tuning_options_import_no_heavy_library() -> None:
    code = "import sys, stages.run.options.tuning; assert not {'torch', 'numpy', 'tyro'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kto_needs_batches_of_at_least_two() -> None:
    with pytest.raises(ValueError, match=r"--batch_size 1: the KL divergence .* take at least 2"):
        flags.check_tuning_flags(flags.KTOOptions(model_path="a", batch_size=1))
    flags.check_tuning_flags(flags.KTOOptions(model_path="a", batch_size=2, gradient_accumulation=2))


@pytest.mark.parametrize(
    ("kind", "name", "known"),
    [
        (flags.DPOOptions, "variant", (*dpo.VARIANTS, "orpo")),
        (flags.GRPOOptions, "variant", tuple(grpo.CLIPS)),
        (flags.GRPOOptions, "kl", kl.ESTIMATORS),
    ],
)
def test_a_flag_has_every_variant_of_its_loss(kind: type, name: str, known: tuple[str, ...]) -> None:
    assert set(get_args(get_type_hints(kind)[name])) == set(known)
