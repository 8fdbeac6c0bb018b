"""Names of optax and torch.optim that pure.optim does not have, each with what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pure.absent import refuse_name

_BY_OPTAX = (
    "adabelief", "adadelta", "adaptive_grad_clip", "add_noise", "apply_every", "centralize",
    "conditionally_mask", "conditionally_transform", "flatten", "fromage", "keep_params_nonnegative",
    "lars", "lbfgs", "measure_with_ema", "noisy_sgd", "normalize_by_update_norm", "novograd",
    "optimistic_adam", "optimistic_adam_v2", "optimistic_gradient_descent", "polyak_sgd", "rprop",
    "scale_by_adadelta", "scale_by_backtracking_linesearch", "scale_by_belief",
    "scale_by_distance_over_gradients", "scale_by_lbfgs", "scale_by_novograd",
    "scale_by_optimistic_gradient", "scale_by_param_block_norm", "scale_by_polyak", "scale_by_rprop",
    "scale_by_sign", "scale_by_sm3", "scale_by_yogi", "scale_by_zoom_linesearch", "sign_sgd", "signum",
    "sm3", "snapshot", "yogi",
)  # fmt: skip
"""Transformations that only optax has."""

_BY_CONTRIB = (
    "acprop", "adopt", "cocob", "dadapt_adamw", "differentially_private_aggregate", "dog",
    "dowg", "dpsgd", "galore", "hutchinson_estimator_diag_hessian", "madgrad", "mechanize", "momo",
    "momo_adam", "normalize", "prodigy", "sam", "scale_by_acprop", "scale_by_adopt",
    "scale_by_cocob", "scale_by_galore", "scale_by_madgrad", "scale_by_simplified_ademamix",
    "schedule_free_sgd", "simplified_ademamix", "sophia", "split_real_and_imaginary",
)  # fmt: skip
"""Transformations that only optax.contrib has."""

_SCHEDULES = (
    "cosine_onecycle_schedule", "exponential_decay", "linear_onecycle_schedule",
    "piecewise_constant_schedule", "piecewise_interpolate_schedule", "warmup_exponential_decay_schedule",
)  # fmt: skip

_OTHERS: Mapping[str, str] = {
    "GradientTransformationExtraArgs": "every optim.GradientTransformation takes **extra",
    "global_norm": "write pure.tree.norm(updates)",
    "init_empty_state": "write optim.identity().init",
    "inject_stateful_hyperparams": "write optim.inject_hyperparams",
    "lookahead": "hold the slow parameters apart, and move them by optim.incremental_update",
    "named_chain": "write optim.chain: paths of its states are numbers",
    "per_example_global_norm_clip": "write pure.transform.per_sample.per_sample_fold",
    "safe_increment": "write optim.base.increment",
    "softmax_cross_entropy": "losses are in pure.loss",
    "softmax_cross_entropy_with_integer_labels": "write pure.loss.cross_entropy",
    "stateless": "write GradientTransformation(optim.base.empty_init, update)",
    "stateless_with_tree_map": "write GradientTransformation(optim.base.empty_init, update)",
    "with_extra_args_support": "write optim.chain, which drops extra arguments for a link that takes none",
}
"""Name of optax -> what to write."""

_TORCH: Mapping[str, str] = {
    "Adafactor": "adafactor",
    "Adagrad": "adagrad",
    "Adam": "adam",
    "AdamW": "adamw",
    "Lion": "lion",
    "Adamax": "adamax",
    "Muon": "muon",
    "NAdam": "nadam",
    "RAdam": "radam",
    "RMSprop": "rmsprop",
    "SGD": "sgd",
    "clip_grad_norm_": "clip_by_global_norm",
    "lr_scheduler": "warmup_cosine_decay_schedule",
}
"""Name of torch -> ours."""

INSTEAD: Mapping[str, str] = MappingProxyType({
    **_OTHERS,
    **{name: f"write optim.{ours}" for name, ours in _TORCH.items()},
    **{
        name: f"with JAX installed, pure.interop.jax.from_optax({library}.{name}(...)) is a part of any stage"
        for library, names in (("optax", _BY_OPTAX), ("optax.contrib", _BY_CONTRIB))
        for name in names
    },
    **dict.fromkeys(_SCHEDULES, "a schedule is any function of a count [] int32; see optim.join_schedules"),
})  # fmt: skip
"""Name -> the part of the message that says what to write."""


def __getattr__(name: str) -> Any:
    """Answers a missing name of `pure.optim`; the package imports this function."""
    refuse_name("pure.optim", name, INSTEAD)
