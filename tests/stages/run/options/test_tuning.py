"""Flags of every stage: plain values, one help for each, nothing heavy imported."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys

import pytest

from stages.run.options import tuning as flags

KINDS = tuple(flags.STAGES.values())


@pytest.mark.parametrize("kind", KINDS)
def test_they_go_to_json_and_back(kind: type) -> None:
    options = kind(model_path="a", max_steps=3, ema=0.9)
    read = json.loads(json.dumps(dataclasses.asdict(options)))
    assert kind(**{name: tuple(x) if isinstance(x, list) else x for name, x in read.items()}) == options


@pytest.mark.parametrize("kind", [*KINDS, flags.TuningOptions, flags.OnlineOptions])
def test_every_flag_has_help(kind: type) -> None:
    lines = inspect.getsource(kind).splitlines()
    for i, line in enumerate(lines):
        if (
            ":" in line
            and line.startswith("    ")
            and "=" in line.split('"""')[0]
            and not line.strip().startswith('"')
        ):
            assert lines[i + 1].strip().startswith('"""'), line


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, stages.run.options.tuning; assert not {'torch', 'numpy', 'tyro'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kto_needs_the_answers_of_other_prompts() -> None:
    with pytest.raises(ValueError, match=r"--batch_size 1: the KL divergence .* take at least 2"):
        flags.check_tuning_flags(flags.KTOOptions(model_path="a", batch_size=1))
    flags.check_tuning_flags(flags.KTOOptions(model_path="a", batch_size=2, gradient_accumulation=2))
