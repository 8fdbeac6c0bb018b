"""Write the final_model of a run: a whole model, adapters, or a reward model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pure.parallel.rows import is_cut
from pure.types import Model, Tree
from stages.checkpoint import checkpoint
from stages.models import adapter, checksums, language_model, reward_model
from stages.models.adapter import Adapter
from stages.models.language_model import Pretrained
from stages.online import policy_of
from stages.run.config_file import MODEL
from stages.run.experiment import SaveModel, Say
from stages.run.loop import Result
from stages.run.processes import ALONE, Processes, share_first
from stages.run.tensor_parts import join_state, load_state


def write(
    folder: Path,
    result: Result,
    save_model: SaveModel,
    say: Say,
    processes: Processes = ALONE,
    model: Model | None = None,
) -> Path:
    """Writes final_model: the last weights, or the best of a run that stopped early; with --ema the average.

    SHA256SUMS, with the sha256 of its files, is written after them, and verified when the model is read.

    Args:
        folder: the run's folder.
        result: result of the loop.
        save_model: the experiment's function that writes the model.
        say: prints a message to the user.
        processes: those that computed the run; the first writes, and the others give it their rows and
            parts.
        model: of `tensor_parallel`, whose parts the state holds; None: it has no parts.

    Returns:
        The folder of the model.
    """
    state, step, reason = result.state, int(result.state.step), ""
    found = checkpoint.best(folder) if result.status == "early" else None
    best = share_first(processes, None if found is None else str(found), about="the best checkpoint")
    if best is not None:
        reason = f", the best; validation stopped improving, and the run ended at {step}"
        load = partial(checkpoint.load, best, warn=say, group=processes.group)
        state, step = load_state(load, state, model)[:2]
    elif -1 < result.best.best_step < step:
        reason = f"; validation was best at step {result.best.best_step}"
    params = join_state(policy_of(state.extra.get("ema", state.params)), model)
    path = folder / MODEL
    if processes.first or is_cut(params):
        path = save_model(path, params)
    if processes.first:
        checksums.write(path)
    say(f"final model: {path} (step {step}{reason})")
    return path


def save_whole(folder: Path, params: Tree, *, base: Pretrained) -> Path:
    """Writes a whole language model.

    Args:
        folder: folder to create or replace.
        params: trained params.
        base: model, tokenizer and chat template.

    Returns:
        The folder.
    """
    return language_model.save(folder, base._replace(params=params))


def save_adapters(folder: Path, params: Tree, *, base: Pretrained, adapted: Adapter) -> Path:
    """Writes adapters.

    Args:
        folder: folder to create or replace.
        params: trained params.
        base: tokenizer and chat template.
        adapted: the frozen base of the adapters.

    Returns:
        The folder.
    """
    texts = language_model.tokenizer_files(base._replace(params=params))
    return adapter.save(folder, adapted, params, base.tokenizer, texts)


def save_reward_model(folder: Path, params: Tree, *, base: Pretrained, adapted: Adapter | None) -> Path:
    """Writes a reward model; adapters are merged into its weights.

    Args:
        folder: folder to create or replace.
        params: trained params, {"model", "score"}.
        base: model, tokenizer and chat template.
        adapted: the frozen base of adapters, or None.

    Returns:
        The folder.
    """
    return reward_model.save(folder, adapter.merge_reward_model(adapted, base._replace(params=params)))
