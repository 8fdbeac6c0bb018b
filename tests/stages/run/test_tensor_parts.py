"""`--tensor_parallel`: the numbers, checkpoints and fingerprint of one process, and what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pure import tree
from pure.config import ModelConfig
from pure.parallel.group import Group
from stages.cli.main import main
from stages.run import build
from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import GRPOOptions, SFTOptions
from stages.run.processes import Processes
from stages.run.tensor_parts import (
    check_adapters,
    check_model,
    check_optimizer,
    check_rollouts,
    count_parts,
    cut_base,
    join_state,
    load_state,
    pair_with_whole,
)
from tests.stages import small, small_stages
from tests.stages.children import join_all, start_joined
from tests.stages.models.test_language_model import make_model
from tests.stages.run.test_processes import printed, stop_at
from tests.stages.small import rows

pytestmark = pytest.mark.processes

TWO = Processes(size=2)


def distance(folder: Path, other: Path) -> float:
    """‖a - b‖ / ‖b‖ over all weights of the final models of two runs."""
    one, two = (load_file(x / "final_model" / "model.safetensors") for x in (folder, other))
    assert one.keys() == two.keys()
    a, b = (torch.cat([x[name].double().flatten() for name in two]) for x in (one, two))
    return float((a - b).norm() / b.norm())


def assert_same_rows(one: Path, other: Path) -> None:
    """Asserts that the logs of two runs are complete, with the same numbers up to rounding."""
    for expected, got in zip(rows(one), rows(other), strict=True):
        same = {
            name: pytest.approx(float(x), rel=1e-4, abs=1e-5, nan_ok=True) for name, x in expected.items()
        }
        assert {name: float(x) for name, x in got.items()} == same


def fingerprint(folder: Path) -> dict[str, str]:
    """That of the newest checkpoint, which is one file as of one process."""
    newest = max((folder / "checkpoints").iterdir())
    assert sorted(path.name for path in newest.iterdir()) == ["manifest.json", "state.msgpack"]
    return json.loads((newest / "manifest.json").read_text())["fingerprint"]


def test_a_run_goes_on_with_another_number_to_the_params_of_one_process(tmp_path: Path) -> None:
    """Two processes share the model, then one has it, then two share it, in rows of a state of one part."""
    arguments = partial(small.flags, tmp_path)
    arguments()
    small.write_config(tmp_path / "small.json", num_key_value_heads=2)
    assert main(["pretrain", *arguments()]) == 0
    own: dict[str, Any] = {"output_dir": tmp_path / "cut"}
    for count, stop, changes in (
        (2, 5, {"tensor_parallel": 2}),
        (1, 8, {}),
        (2, None, {"tensor_parallel": 2, "shard": "state"}),
    ):
        setups = {} if stop is None else {0: partial(stop_at, stop)}
        processes = start_joined(count, tmp_path / "out", arguments(**own, **changes), setups)
        expected = [0 if stop is None else 143] * count
        assert join_all(processes) == expected, printed(tmp_path / "out", "err")
        assert rows(tmp_path / "cut")[-1]["step"] == (stop or 12)
    lines = printed(tmp_path / "out", "out")[0]
    assert "--tensor_parallel was 1, is 2: the run resumes, but not bit for bit" in lines
    assert distance(tmp_path / "cut", tmp_path / "run") < 1e-6
    assert_same_rows(tmp_path / "run", tmp_path / "cut")
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "options"), [("sft", {"ema": 0.9, "patience": 1, "eval_every": 1}), ("ppo", {})]
)
def test_a_stage_has_the_numbers_of_one_process(name: str, options: dict, tmp_path: Path) -> None:
    """That of sft ends early, with the best state as its final model; that of ppo scores each answer once."""
    changes = {"max_steps": 3, "eval_every": 2, "data_path": tmp_path / f"{name}.jsonl"} | options
    arguments = partial(small_stages.flags, tmp_path, name, **changes)
    outputs = {"alone": tmp_path / name, "cut": tmp_path / "cut"}
    words = {key: arguments(output_dir=path) for key, path in outputs.items()}
    calls = tmp_path / "calls"
    (tmp_path / "short.py").write_text(
        "def short(prompt, completion, row):\n"
        f"    with open({str(calls)!r}, 'a') as file:\n        file.write('.')\n"
        "    return -len(completion) / 10\n"
    )
    counts = []
    for key in ("alone", "cut"):
        calls.write_text("")
        if key == "alone":
            assert main([name, *words[key]]) == 0
        else:
            own = [*words[key], "--tensor_parallel", "2"]
            processes = start_joined(2, tmp_path / "out", own, subcommand=name)
            assert join_all(processes) == [0, 0], printed(tmp_path / "out", "err")
        counts.append(len(calls.read_text()))
    assert counts[0] == counts[1]
    assert (counts[0] > 0) == (name == "ppo")
    assert distance(outputs["cut"], outputs["alone"]) < 1e-6
    assert_same_rows(outputs["alone"], outputs["cut"])
    assert fingerprint(outputs["cut"]) == fingerprint(outputs["alone"])


def test_it_needs_several_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", *small.flags(tmp_path, tensor_parallel=2)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--tensor_parallel 2 cuts the model over processes, and there is one; start several" in line
    assert not (tmp_path / "run").exists()


def test_it_divides_the_number_of_processes() -> None:
    assert [count_parts(*x) for x in ((1, 1), (1, 3), (2, 4), (4, 4))] == [1, 3, 2, 1]
    with pytest.raises(ValueError, match=r"3 does not divide .* 4: .*start 6, or use --tensor_parallel 2"):
        count_parts(3, 4)


@pytest.mark.parametrize("name", ["muon", "adafactor", "lamb", "soap"])
def test_optimizers_of_whole_matrices_are_refused(name: Any) -> None:
    check_optimizer(1, PretrainOptions(optimizer=name))
    with pytest.raises(ValueError, match=f"--tensor_parallel 2: --optimizer {name} reads the shape"):
        build.check(PretrainOptions(optimizer=name, tensor_parallel=2), TWO)


def test_gradients_of_whole_leaves_are_refused() -> None:
    check_optimizer(2, PretrainOptions(optimizer="lion"))
    for flags in (PretrainOptions(noise_scale=True), PretrainOptions(clip_per_sample=1.0)):
        check_optimizer(1, flags)
        with pytest.raises(ValueError, match=r"--(noise_scale|clip_per_sample) takes norms of whole gradi"):
            check_optimizer(2, flags)


def test_adapters_and_servers_are_refused() -> None:
    for flags in (SFTOptions(model_path="m", lora="balanced"), SFTOptions(model_path="m", qlora=True)):
        check_adapters(1, flags)
        with pytest.raises(
            ValueError, match=r"--tensor_parallel 2: adapters are not cut; leave out --q?lora"
        ):
            check_adapters(2, flags)
    server = GRPOOptions(model_path="m", rollout_server="http://localhost:8000")
    check_rollouts(1, server)
    with pytest.raises(ValueError, match="--rollout_server is sent whole weights"):
        check_rollouts(2, server)


def test_sizes_that_do_not_divide_are_refused_before_the_data_are_prepared(tmp_path: Path) -> None:
    check_model(2, ModelConfig(vocab_size=281))  # the tokenizer may change it
    small.flags(tmp_path)  # one key-value head
    options = PretrainOptions(config=str(tmp_path / "small.json"), tensor_parallel=2, max_length=16)
    with pytest.raises(ValueError, match="num_key_value_heads 1 does not divide by 2 processes"):
        build.check(options, TWO)


def test_a_batch_has_a_row_for_each_part() -> None:
    two = PretrainOptions(batch_size=1, tensor_parallel=2)
    build.check(two, TWO)
    with pytest.raises(ValueError, match="--batch_size 1: 1 row for 2 processes"):
        build.check(two, Processes(size=4))


def test_without_a_group_nothing_is_cut() -> None:
    base, state = make_model(), {"w": torch.ones(2)}
    loaded: Any = (state, 1)
    assert cut_base(base, None) is base
    assert join_state(state, None) is state
    assert load_state(lambda like: loaded, state, None) is loaded
    assert pair_with_whole(base.params, base.model) == []


def test_one_process_has_all_parts() -> None:
    """And the whole leaves of its params have the bits of its parts."""
    whole = make_model()
    base = cut_base(whole, Group(rank=0, size=1, handle=None))
    assert base.model.parallel.tensor.size == 1
    pairs = pair_with_whole(base.params, base.model)
    assert len(pairs) == len(tree.leaves(whole.params))
    for (part, joined), expected in zip(pairs, tree.leaves(whole.params), strict=True):
        assert torch.equal(part, expected)
        assert torch.equal(joined, expected)
    assert cut_base(whole._replace(params={}), Group(0, 1, None)).params == {}
