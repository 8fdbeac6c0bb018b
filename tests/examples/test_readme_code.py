"""The README's code about research runs as it stands, on a small model."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from pure import optim, random
from pure.nn.transformer import transformer
from pure.transform.grad import grad
from stages.dpo import dpo
from stages.sft import sft
from stages.stage import loss_of
from tests.laws.test_stages import pair_batch, small, text_batch

README = Path(__file__).parents[2] / "README.md"


def test_the_research_bench_of_the_readme_runs() -> None:
    section = README.read_text(encoding="utf8").split("## The research bench")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    model, key = transformer(small(num_hidden_layers=1)), random.key(0)
    batch = text_batch(0)
    make = lambda rate: sft(model, optim.adamw(rate))  # noqa: E731
    loss = loss_of(make(0.1))
    value = lambda p: loss(p, text_batch(1), None)[0]  # noqa: E731
    stage = sft(model, optim.adamw(1e-3))
    state = stage.init(key)
    names = {
        "sft": sft,
        "dpo": dpo,
        "optim": optim,
        "grad": grad,
        "model": model,
        "key": key,
        "batch": batch,
        "params": state.params,
        "weights": torch.ones(8),
        "rows": batch,
        "queries": text_batch(2),
        "value": value,
        "query_loss": value,
        "opt": optim.adam(1e-3),
        "make": make,
        "rate": torch.tensor(0.01),
        "batches": [text_batch(i) for i in range(4)],
    }
    first, rest = block.split("\nstate = ", 1)
    exec(first, names)
    names["state"] = names["stage"].init(key)
    exec("state = " + rest, names)
    assert names["losses"].shape == names["norms"].shape == names["effect"].shape == (8,)
    assert names["scores"].shape == (8, 8)
    betas = names["betas"]
    after = betas.step(betas.init(key, names["params"]), pair_batch(0))
    assert after.metrics["loss"].shape == (3,)
    assert names["meta"].isfinite()
    assert names["top"] > 0
