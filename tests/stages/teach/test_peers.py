"""`stages.teach.peers`: a file that imports a library of others at its top can be imported without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stages.teach import peers

CODE = """
import sys
from stages.teach import peers
sys.meta_path.insert(0, peers.Finder())
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from transformers import LlamaConfig, set_seed
class Config(LlamaConfig):
    pass
print(type(optax).__name__, Mesh.__name__, issubclass(Config, LlamaConfig), hasattr(optax, "__file__"))
try:
    LlamaConfig(hidden_size=1)
except TypeError:
    print("no behaviour")
import json, torch
print(torch.__file__ is not None)
"""


def test_a_stand_in_has_every_name_and_no_behaviour() -> None:
    root = Path(peers.__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["StandIn Mesh True False", "no behaviour", "True"], done.stderr
