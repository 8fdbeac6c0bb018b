"""Flags are plain values: they go to JSON and back, and import nothing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

from stages.run.options.pretrain import PretrainOptions


def test_they_go_to_json_and_back() -> None:
    options = PretrainOptions(warmup=0.1, max_steps=3, ema=0.999)
    assert PretrainOptions(**json.loads(json.dumps(dataclasses.asdict(options)))) == options


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, stages.run.options.pretrain; assert not {'torch', 'numpy', 'tyro'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
