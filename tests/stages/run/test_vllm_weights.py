"""Weights on their way to a server: files, names and dtypes; vLLM's NCCL engine is a stand-in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pure import random, tree
from pure.interop import hf
from pure.nn.transformer import transformer
from stages.run.http_json import Server, request
from stages.run.vllm_weights import convert_weights, folder_sender, nccl_sender, send_paused, sum_bits
from tests.laws.test_stages import small
from tests.stages.run.vllm_server import Running, serve
from tests.stages.test_online import MODEL

WEIGHTS = hf.to_weights(MODEL.init(random.key(0)))
UPDATE = ["/pause?mode=wait", "/collective_rpc", "/reset_prefix_cache", "/resume"]


def paths(running: Running) -> list[str]:
    return [path for path, _ in running.log]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_a_folder_hands_over_every_weight_once(dtype: torch.dtype | None, tmp_path: Path) -> None:
    received: list[Mapping[str, Tensor]] = []

    def look(handler: Any, path: str, body: Any, answer: bytes) -> bool:
        if path == "/collective_rpc":
            received.append(load_file(Path(body["kwargs"]["weights_path"]) / "model.safetensors"))
        return False

    with serve(MODEL, fault=look) as running:
        send_paused(folder_sender(tmp_path / "a" / "b"), Server(running.address), WEIGHTS, dtype)
        assert paths(running) == UPDATE
        assert running.log[1][1]["method"] == "reload_weights"
    (weights,) = received
    assert set(weights) == set(WEIGHTS)
    assert hf.EMBEDDING in weights
    assert hf.HEAD not in weights  # tied
    for name, x in WEIGHTS.items():
        assert torch.equal(weights[name], x if dtype is None else x.to(dtype))
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_model_of_another_shape_is_refused_and_the_server_stays_paused(tmp_path: Path) -> None:
    other = transformer(small(hidden_size=16, max_position_embeddings=32))
    with serve(other) as running:
        with pytest.raises(
            ValueError, match=r"answered 500: .*expected shape .*stays paused.*names and shapes"
        ):
            send_paused(folder_sender(tmp_path), Server(running.address), WEIGHTS, None)
        assert paths(running) == UPDATE[:2]
    assert list(tmp_path.iterdir()) == []


def test_a_server_without_dev_mode_is_refused(tmp_path: Path) -> None:
    with (
        serve(MODEL, dev_mode=False) as running,
        pytest.raises(
            ValueError, match=r"/pause.mode=wait: the server answered 404: Not Found; .*DEV_MODE=1"
        ),
    ):
        send_paused(folder_sender(tmp_path), Server(running.address), WEIGHTS, None)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with serve(MODEL) as running, pytest.raises(OSError, match=r"cannot write .*file: .*another folder"):
        send_paused(folder_sender(tmp_path / "file"), Server(running.address), WEIGHTS, None)


def test_copies_are_contiguous_and_their_own() -> None:
    weight = torch.arange(6.0).view(2, 3).T
    ((_, copy),) = convert_weights({"a": weight}, None)
    assert copy.is_contiguous()
    assert torch.equal(copy, weight)
    copy.zero_()
    assert weight.sum() == 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_sum_of_bits_notices_a_change_in_place(dtype: torch.dtype) -> None:
    weights = {name: x.to(dtype) for name, x in WEIGHTS.items()}
    before = sum_bits(weights)
    assert sum_bits(tree.clone(weights)) == before
    for x in weights.values():
        old = x.flatten()[0].clone()
        x.view(-1)[0] += 1
        assert sum_bits(weights) != before
        x.view(-1)[0] = old
    assert sum_bits(weights) == before
    assert sum_bits({}) == ()


def fake_vllm(hand_over: Callable[[dict[str, Tensor]], None], made: list[Any]) -> dict[str, Any]:
    """The part of vLLM's package that the NCCL sender uses, as its documentation of 0.32 has it."""

    def trainer_init(*, init_info: Any, client: Any, source: Any) -> Any:
        made.append(init_info)
        client("/init_weight_transfer_engine", {"init_info": {"world_size": init_info.world_size}})

        def send_weights() -> None:
            metadata = [(name, x.dtype, tuple(x.shape)) for name, x in source()]
            client("/start_weight_update", None)
            client("/update_weights", {"update_info": {"names": [name for name, *_ in metadata]}})
            received = dict(source())
            assert [(name, x.dtype, tuple(x.shape)) for name, x in received.items()] == metadata
            hand_over(received)
            client("/finish_weight_update", None)

        return SimpleNamespace(send_weights=send_weights)

    def sync_client(address: str, timeout: float) -> Callable[[str, Any], Any]:
        server = Server(address, timeout)
        return lambda path, body: request(server, "POST", path, body)

    weight_transfer = SimpleNamespace(
        WeightTransferTrainerFactory=SimpleNamespace(trainer_init=trainer_init),
        HTTPVLLMWeightSyncClient=sync_client,
        ModuleSource=lambda module: module.named_parameters,
    )
    nccl_engine = SimpleNamespace(NCCLTrainerInitInfo=lambda **fields: SimpleNamespace(**fields))
    network = SimpleNamespace(get_ip=lambda: "10.0.0.1", get_open_port=lambda: 51216)
    distributed = SimpleNamespace(weight_transfer=weight_transfer)
    return {
        "vllm": SimpleNamespace(distributed=distributed),
        "vllm.distributed": distributed,
        "vllm.distributed.weight_transfer": weight_transfer,
        "vllm.distributed.weight_transfer.nccl_engine": nccl_engine,
        "vllm.utils": SimpleNamespace(network_utils=network),
        "vllm.utils.network_utils": network,
    }


@pytest.fixture
def nccl(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Running, list[Any]]]:
    """A server whose updates come from a stand-in of vLLM's engine, and the settings of its groups."""
    made: list[Any] = []
    with serve(MODEL) as running:
        for name, module in fake_vllm(running.hand_over, made).items():
            monkeypatch.setitem(sys.modules, name, module)
        yield running, made


def test_nccl_makes_one_group_and_sends_in_vllms_four_phases(nccl: tuple[Running, list[Any]]) -> None:
    running, made = nccl
    send = nccl_sender(packed=False)
    for _ in range(2):
        send_paused(send, Server(running.address), WEIGHTS, torch.bfloat16)
    (group,) = made
    assert (group.world_size, group.rank, group.packed) == (3, 0, False)  # two workers and the trainer
    assert (group.master_address, group.master_port) == ("10.0.0.1", 51216)
    phases = ["/start_weight_update", "/update_weights", "/finish_weight_update"]
    update = [UPDATE[0], *phases, *UPDATE[2:]]
    first = [UPDATE[0], "/get_world_size", "/init_weight_transfer_engine", *update[1:]]
    assert paths(running) == first + update
    assert running.weights == [list(WEIGHTS)] * 2


def test_nccl_without_vllm_says_what_to_install() -> None:
    with serve(MODEL) as running, pytest.raises(ImportError, match=r"vllm 0.32 .*--rollout_folder"):
        nccl_sender()(Server(running.address), WEIGHTS, None)
