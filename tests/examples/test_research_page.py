"""The code of docs/research.md runs as it stands, on a small model."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from pure import optim, random, tree
from pure.nn.transformer import transformer
from pure.transform.grad import grad
from stages.dpo import dpo
from stages.sft import sft
from stages.stage import loss_of
from tests.laws.test_stages import pair_batch, small, text_batch
from tests.stages.test_audit import MODEL, POLICY, REFERENCE, ROLLOUTS, SAMPLING

PAGE = Path(__file__).parents[2] / "docs" / "research.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf8"), re.DOTALL | re.MULTILINE)


def test_the_research_bench_runs() -> None:
    block, second_order, _ = BLOCKS
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
    names |= {"torch": torch, "tangents": tree.map(torch.ones_like, state.params)}
    exec(second_order, names)
    assert tree.norm(names["along"]) > 0


def test_runs_side_by_side() -> None:
    model = transformer(small(num_hidden_layers=1))
    stage, key = sft(model, optim.adamw(1e-3)), random.key(0)
    names = {
        "dpo": dpo,
        "model": model,
        "optimizer": optim.adam(1e-3),
        "params": model.init(key),
    }
    made, rest = BLOCKS[2].split("\nbars = ", 1)
    members, audits = rest.split("\naudit_grpo(", 1)
    exec(made, names)
    sweep = names["stage"]
    names["state"] = sweep.step(sweep.init(key, names["params"]), pair_batch(0))
    exec("bars = " + members, names)
    assert names["bars"].mean.shape == (3,)
    assert names["best"].metrics["loss"].shape == ()
    names |= {
        "model": MODEL,
        "params": POLICY,
        "reference": REFERENCE,
        "rollouts": ROLLOUTS,
        "rewards": random.uniform(random.key(1), (len(ROLLOUTS.mask), 1)),
        "sampling": SAMPLING,
        "stage_a": stage,
        "stage_b": sft(model, optim.adamw(1e-2)),
        "state": stage.init(key),
        "pipe": [text_batch(0), text_batch(1)],
        "s": 0,
    }
    cosines, distances = ("audit_grpo(" + audits).strip().splitlines()
    found, apart = eval(cosines, names), eval(distances, names)
    assert found.shape[0] == found.shape[1] > 7
    assert apart.shape == (2,)
