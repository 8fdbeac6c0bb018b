"""The rounding of `benchmarks/_gguf_compare.py` is that of stored weights; a missing llama.cpp is explained."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import gguf
import pytest
import torch

from pure import random


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield import_module("_gguf_compare")


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_inputs_are_rounded_as_the_gguf_package_rounds_weights(kind: str, benchmark: ModuleType) -> None:
    x = random.normal(random.key(0), (4, 96))
    x[0, :32] = 0
    stored = gguf.GGMLQuantizationType[kind.upper()]
    expected = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(x.numpy(), stored), stored))
    with benchmark.Rounded(kind):
        found = torch.nn.functional.linear(x, torch.eye(96))
    assert torch.equal(found, benchmark.round_input(x, kind))
    assert float((found - expected).abs().max()) <= (2**-12 if kind == "q8_0" else 0)


def test_a_missing_llama_cpp_is_explained(benchmark: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"has no llama-cpp-python; build it with bash benchmarks/llama_cpp\.sh"
    ):
        benchmark._llama_cpp.start(tmp_path)
