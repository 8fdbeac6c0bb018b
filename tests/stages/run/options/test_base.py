"""Flags that every training stage has are defined once."""

from __future__ import annotations

import inspect
from collections import Counter

from stages.run.options.base import TrainOptions
from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import STAGES

REDEFINED = {"model_path", "held_out", "max_length", "temperature", "label_smoothing", "beta", "variant"}
"""Flags that have another type, range or meaning in some stage."""


def test_each_flag_is_defined_in_one_class_only() -> None:
    """Definitions are the lines `    name: type = default` in the sources of the classes."""
    classes = {
        base for kind in (PretrainOptions, *STAGES.values()) for base in kind.__mro__ if base is not object
    }
    lines = [line for kind in classes for line in inspect.getsource(kind).splitlines()]
    definitions = Counter(
        line.strip().partition(":")[0] for line in lines if line.startswith("    ") and " = " in line
    )
    flags = {name for kind in (PretrainOptions, *STAGES.values()) for name in kind.__dataclass_fields__}
    assert {name for name in flags if definitions[name] > 1} <= REDEFINED


def test_every_stage_has_the_flags_of_the_base() -> None:
    for kind in (PretrainOptions, *STAGES.values()):
        assert issubclass(kind, TrainOptions)
