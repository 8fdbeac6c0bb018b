"""--rollout_server: runs on a stand-in server equal runs without one, resume and replay without the server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stages.cli.main import main
from stages.models import language_model
from stages.run.log import CLOCK
from stages.run.options.tuning import GRPOOptions, PPOOptions, check_tuning_flags
from tests.stages.run.vllm_server import serve
from tests.stages.small_stages import run, write_model, write_rows

GONE = "http://127.0.0.1:9"
"""An address at which nothing listens."""


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without those that depend on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if name not in CLOCK} for line in lines]


def on_server(folder: Path, name: str, address: str, **changes: Any) -> int:
    flags = {"rollout_server": address, "rollout_folder": folder / "weights", "importance_cap": 2.0}
    flags |= {"max_steps": 3, "batch_size": 2, "eval_every": 0} | ({"samples": 2} if name == "grpo" else {})
    return run(folder, name, **(flags | changes))


@pytest.mark.parametrize(("name", "changes"), [("ppo", {}), ("grpo", {"lora": "balanced"})])
def test_a_run_on_a_server_equals_one_without_resumes_and_replays(
    name: str, changes: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path)
    write_rows(tmp_path)
    model = language_model.load(tmp_path / "model").model
    there, here = tmp_path / "there", tmp_path / "here"
    with serve(model, context=128) as running:
        assert on_server(tmp_path, name, running.address, output_dir=there, **changes) == 0
        assert len(running.weights) == 3
        manifests = list(there.glob("checkpoints/*/manifest.json"))
        assert manifests
        for manifest in manifests:
            assert running.address not in manifest.read_text()
            assert "VLLMRollout" in manifest.read_text()
    assert len((there / "rollouts.jsonl").read_bytes().splitlines()) == 3
    # The same run without a server.
    local = {"rollout_server": None, "rollout_folder": None}
    assert on_server(tmp_path, name, GONE, output_dir=here, **(local | changes)) == 0
    for ours, theirs in zip(rows(here), rows(there), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5, nan_ok=True)
    # Killed after step 2, and resumed while the server is gone.
    expected = rows(there)
    shutil.rmtree(there / "checkpoints" / "step-00000003")
    assert on_server(tmp_path, name, GONE, output_dir=there, **changes) == 0
    assert rows(there) == expected
    # Replayed, also without it; and not resumed without a server.
    assert main(["replay", str(there), "--step", "3"]) == 0
    assert "step 3: equal, bit for bit" in capsys.readouterr().out
    shutil.rmtree(there / "checkpoints" / "step-00000003")
    assert on_server(tmp_path, name, GONE, output_dir=there, **(local | changes)) == 2
    assert "rollout" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [GRPOOptions, PPOOptions])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rollout_folder": "w"}, "--rollout_folder w sends weights to a server, and there is none"),
        (
            {"rollout_server": "localhost:8000"},
            "--rollout_server: expected the address .* got 'localhost:8000'",
        ),
        (
            {"rollout_server": GONE, "importance_cap": 2.0, "top_k": 5},
            "leave out --top_k, or --importance_cap",
        ),
        ({"rollout_server": GONE, "importance_cap": 2.0, "top_p": 0.5}, "leave out --top_p"),
        ({"importance_cap": 0.0}, "--importance_cap: expected a finite number above 0, got 0.0"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(kind: type, flags: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tuning_flags(kind(model_path="m", **flags))
    check_tuning_flags(kind(model_path="m", rollout_server=GONE, rollout_folder="w", top_k=5))
    check_tuning_flags(kind(model_path="m", importance_cap=2.0, top_k=5))
