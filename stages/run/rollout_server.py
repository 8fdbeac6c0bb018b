"""Build the sampler of --rollout_server: completions from a vLLM server, recorded in the run's folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from pure.adapt.lora import merge
from pure.generation.sampling import Sampling
from pure.interop import hf
from pure.types import Tree
from stages.models.adapter import Adapter
from stages.online import Rollout
from stages.run.data.rollouts_log import record_rollouts
from stages.run.experiment import Say, Start
from stages.run.options.tuning import RolloutFlags
from stages.run.vllm_rollout import vllm_rollout
from stages.run.vllm_weights import folder_sender, nccl_sender

API_KEY = "VLLM_API_KEY"
"""Variable of the environment with the key of a server that was started with --api-key; vLLM's own name."""


def build_sampler(
    flags: RolloutFlags, start: Start, sampling: Sampling, samples: int, folder: Path, say: Say
) -> Rollout | None:
    """Builds the sampler of a run that trains on completions of a server.

    Args:
        flags: the server and how weights are sent to it.
        start: the policy to start from.
        sampling: settings of the completions.
        samples: completions of each prompt.
        folder: the run's folder, for rollouts.jsonl.
        say: prints a message to the user.

    Returns:
        The sampler, or None if completions are sampled here. Nothing is sent before the first step.

    Raises:
        ValueError: for an address or a model that cannot work.
    """
    if flags.rollout_server is None:
        return None
    sampler = vllm_rollout(
        flags.rollout_server,
        model=start.base.model,
        samples=samples,
        sampling=sampling,
        send=nccl_sender() if flags.rollout_folder is None else folder_sender(flags.rollout_folder),
        weights=partial(merge_weights, adapter=start.adapter) if start.adapter else hf.to_weights,
        dtype=start.dtype,
        api_key=os.environ.get(API_KEY),
        say=say,
    )
    recorded = record_rollouts(
        sampler.sample, folder, settings=sampler.description, stop_tokens=sampling.stop_tokens
    )
    return sampler._replace(sample=recorded)


def merge_weights(params: Tree, *, adapter: Adapter) -> Mapping[str, Tensor]:
    """Returns the weights of a model with its adapters merged.

    Args:
        params: of the adapters.
        adapter: their frozen base.

    Returns:
        {Hugging Face name: tensor}.
    """
    return hf.to_weights(merge(adapter.base, params, adapter.config))
