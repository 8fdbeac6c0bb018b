"""`PretrainOptions` are plain values: they round-trip through JSON, and import no heavy library."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

from stages.run.options.pretrain import PretrainOptions


def test_pretrain_options_round_trip_through_json() -> None:
    options = PretrainOptions(warmup=0.1, max_steps=3, ema=0.999)
    read = json.loads(json.dumps(dataclasses.asdict(options)))
    read = {name: tuple(value) if isinstance(value, list) else value for name, value in read.items()}
    assert PretrainOptions(**read) == options


def test_pretrain_options_import_no_heavy_library() -> None:
    code = "import sys, stages.run.options.pretrain; assert not {'torch', 'numpy', 'tyro'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
