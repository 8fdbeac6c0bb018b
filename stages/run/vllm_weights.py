"""Send weights to a vLLM server: through a shared folder, or by NCCL from GPU to GPU.

Weights have Hugging Face's names and shapes, and are copied one at a time, so that a second copy of the model
never exists here. No HTTP request carries them: it only says where they are.

The protocol is that of vLLM 0.32 (its pages "Weight Transfer", "Async Reinforcement Learning" and "Layerwise
Reloading"), in a server that was started with VLLM_SERVER_DEV_MODE=1. It was tested against a stand-in; no
real vLLM was run.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor

from data_pipes.files import writing
from pure.parallel.checksum import INTEGERS
from stages.models import weights_file
from stages.run.http_json import Server, request

FILE = "model.safetensors"


class SendWeights(Protocol):
    """Sends weights to a server: (server, {Hugging Face name: tensor}, dtype to send or None) -> None."""

    def __call__(
        self, server: Server, weights: Mapping[str, Tensor], dtype: torch.dtype | None, /
    ) -> None: ...


def send_paused(
    send: SendWeights, server: Server, weights: Mapping[str, Tensor], dtype: torch.dtype | None
) -> None:
    """Sends weights while the server generates nothing, and empties its cache of prefixes.

    Args:
        send: from `folder_sender` or `nccl_sender`.
        server: the server.
        weights: by Hugging Face's names; a tied head is one tensor, under the embedding's name.
        dtype: the dtype in which they are sent; None sends each in its own.

    Steps:
        1. POST /pause?mode=wait: requests of others end first.
        2. Send the weights.
        3. POST /reset_prefix_cache: keys and values of the old weights are forgotten.
        4. POST /resume.

    Raises:
        ConnectionError, TimeoutError: as `stages.run.http_json.request`.
        ValueError: if the server refuses; it then stays paused, as its weights may be a mixture.
    """
    # 1. Pause.
    try:
        request(server, "POST", "/pause?mode=wait")
    except ValueError as error:
        raise ValueError(
            f"{error}; weights are sent to a vLLM server that was started with VLLM_SERVER_DEV_MODE=1"
        ) from None
    # 2. Send.
    try:
        send(server, weights, dtype)
    except ValueError as error:
        raise ValueError(
            f"{error}; the server stays paused, as its weights may be incomplete. Was it started with a "
            "model of these names and shapes?"
        ) from None
    # 3. Cache.
    request(server, "POST", "/reset_prefix_cache")
    # 4. Resume.
    request(server, "POST", "/resume")


def folder_sender(folder: str | Path) -> SendWeights:
    """Returns a function that sends weights through a folder, which the server sees under the same path.

    Works with every server, on any device, at the speed of the disk; a folder in memory, such as /dev/shm,
    is the fastest on one machine.

    Args:
        folder: made if it is missing; a subfolder with the weights exists while they are sent.

    Returns:
        SendWeights. It writes FOLDER/weights/model.safetensors, and asks every worker to load it: POST
        /collective_rpc {"method": "reload_weights", "kwargs": {"weights_path": PATH}}.
    """
    return partial(_send_by_folder, Path(folder).resolve())


def nccl_sender(**options: Any) -> SendWeights:
    """Returns a function that broadcasts weights from this process's GPU to those of the server.

    It uses vLLM's own trainer side, so that the package vllm must be installed here too, and the server be
    started with --weight-transfer-config '{"backend": "nccl"}'. Trainer and server need different GPUs.

    Args:
        options: of vLLM's NCCLTrainerInitInfo, such as packed=False; its address, port and world size are
            chosen here.

    Returns:
        SendWeights. The group of processes is made in its first call, and kept.

    Raises:
        ImportError: in the first call, if vllm is not installed.
    """
    engines: list[Any] = []
    current: dict[str, Any] = {}
    return partial(_send_by_nccl, engines, current, MappingProxyType(options))


def convert_weights(weights: Mapping[str, Tensor], dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """Yields each weight as a contiguous copy of its own, one at a time.

    Args:
        weights: by name.
        dtype: of the copies; None keeps each weight's own.

    Example:
        >>> weights = {"a": torch.ones(2, 1).T}
        >>> [(name, x.shape, x.dtype) for name, x in convert_weights(weights, torch.bfloat16)]
        [('a', torch.Size([1, 2]), torch.bfloat16)]
    """
    for name, weight in weights.items():
        copy = torch.empty(weight.shape, dtype=dtype or weight.dtype, device=weight.device)
        yield name, copy.copy_(weight.detach())


def sum_bits(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Returns one number for each weight, which an update of the weights changes.

    The sum of the weight's bits, read as integers, so that a weight that was overwritten in place is noticed.
    It is one kernel a weight, as it is computed at every step; `pure.parallel.checksum` tells more apart, and
    launches some kernels for each 65,536 numbers.

    Example:
        >>> weights = {"a": torch.zeros(3), "b": torch.ones(1)}
        >>> sum_bits(weights)
        (0, 1065353216)
    """
    sums = [
        x.detach().contiguous().view(INTEGERS[x.element_size()]).sum(dtype=torch.int64).cpu()
        for x in weights.values()
    ]
    return tuple(torch.stack(sums).tolist()) if sums else ()


def _send_by_folder(
    folder: Path, server: Server, weights: Mapping[str, Tensor], dtype: torch.dtype | None
) -> None:
    """Writes the weights, asks the server to load them, and removes them."""
    path = folder / "weights"
    try:
        with writing(folder, "make room there, or choose another folder"):
            shutil.rmtree(path, ignore_errors=True)  # of a run that was killed
            path.mkdir(parents=True)
            _write_safetensors(path, weights, dtype)
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(path)}}
        request(server, "POST", "/collective_rpc", body)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _write_safetensors(folder: Path, weights: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    """Writes a safetensors file in the order of the weights, of which one at a time is in memory."""
    shapes = {
        name: torch.empty(x.shape, dtype=dtype or x.dtype, device="meta") for name, x in weights.items()
    }
    files = weights_file.plan_files(shapes, FILE, sys.maxsize, by_name=False)
    weights_file.write(folder, files, (x.cpu() for _, x in convert_weights(weights, dtype)))


def _send_by_nccl(
    engines: list[Any],
    current: dict[str, Any],
    options: Mapping[str, Any],
    server: Server,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype | None,
) -> None:
    """Broadcasts the weights; the first call makes the group."""
    current.update(weights=weights, dtype=dtype)
    try:
        if not engines:
            engines.append(_start_engine(current, options, server))
        engines[0].send_weights()
    finally:
        current.clear()


def _start_engine(current: Mapping[str, Any], options: Mapping[str, Any], server: Server) -> Any:
    """Makes vLLM's engine on the trainer's side, whose source reads the weights of the current call."""
    try:
        from vllm.distributed import weight_transfer
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.utils.network_utils import get_ip, get_open_port
    except ImportError as error:
        raise ImportError(
            f"weights are sent by NCCL with vLLM's own package, which cannot be imported ({error}); install "
            "vllm 0.32 or newer, or send them through a folder (--rollout_folder)"
        ) from error
    workers = request(server, "GET", "/get_world_size", repeat=True)
    if not isinstance(workers, dict) or type(workers.get("world_size")) is not int:
        raise ValueError(f"{server.address}/get_world_size: expected a world_size, got {str(workers)[:80]}")

    def named_parameters() -> Iterator[tuple[str, Tensor]]:
        return convert_weights(current["weights"], current["dtype"])

    return weight_transfer.WeightTransferTrainerFactory.trainer_init(
        init_info=NCCLTrainerInitInfo(
            master_address=get_ip(),
            master_port=get_open_port(),
            world_size=workers["world_size"] + 1,
            rank=0,
            **options,
        ),
        client=weight_transfer.HTTPVLLMWeightSyncClient(server.address, timeout=server.seconds),
        source=weight_transfer.ModuleSource(SimpleNamespace(named_parameters=named_parameters)),
    )
