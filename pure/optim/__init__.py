"""Optimizers with optax's protocol, names, arguments and states. Import from here or from their own files."""

from typing import TYPE_CHECKING

from pure.optim.adafactor import adafactor
from pure.optim.adagrad import ScaleByRssState, adagrad, scale_by_rss
from pure.optim.adamax import adamax, adamaxw, scale_by_adamax
from pure.optim.adamw import ScaleByAdamState, adam, adamw, scale_by_adam
from pure.optim.adan import ScaleByAdanState, adan, scale_by_adan
from pure.optim.ademamix import ScaleByAdemamixState, ademamix, half_life_schedule, scale_by_ademamix
from pure.optim.amsgrad import ScaleByAmsgradState, amsgrad, scale_by_amsgrad
from pure.optim.axes import MuonDimensionNumbers, hidden_matrices
from pure.optim.base import EmptyState, apply_updates, chain, identity
from pure.optim.block_rms import clip_by_block_rms, scale_by_param_block_rms
from pure.optim.cautious import cautious, cautious_adamw
from pure.optim.cautious_weight_decay import add_cautious_decayed_weights, cautious_decay_adamw
from pure.optim.clip import clip, clip_by_global_norm
from pure.optim.ema import EmaState, ema, incremental_update, warmed_decay
from pure.optim.factored_rms import FactoredState, decay_rate_pow, scale_by_factored_rms
from pure.optim.finite import ApplyIfFiniteState, all_finite, apply_if_finite
from pure.optim.freeze import freeze, selective_transform, set_to_zero
from pure.optim.inject import InjectStatefulHyperparamsState, WrappedScheduleState, inject_hyperparams
from pure.optim.lamb import lamb, scale_by_trust_ratio
from pure.optim.leafwise import elementwise, is_elementwise, is_leafwise, leafwise
from pure.optim.lion import ScaleByLionState, lion, scale_by_lion
from pure.optim.mask import (
    MaskedNode,
    MaskedState,
    decay_mask,
    masked,
    path_mask,
)
from pure.optim.multi_steps import (
    MultiSteps,
    MultiStepsState,
    has_updated,
    skip_large_updates,
    skip_not_finite,
)
from pure.optim.muon import MuonState, muon, scale_by_muon
from pure.optim.nadam import nadam, nadamw
from pure.optim.newton_schulz import orthogonalize
from pure.optim.normuon import ScaleByNormuonState, normuon, scale_by_normuon
from pure.optim.partition import PartitionState, multi_transform, partition
from pure.optim.radam import radam, scale_by_radam
from pure.optim.reduce_on_plateau import ReduceLROnPlateauState, reduce_on_plateau
from pure.optim.rmsprop import (
    ScaleByRmsState,
    ScaleByRmsWithCountState,
    ScaleByRStdDevState,
    ScaleByRStdDevWithCountState,
    rmsprop,
    scale_by_rms,
    scale_by_stddev,
)
from pure.optim.scale import ScaleByScheduleState, scale, scale_by_learning_rate, scale_by_schedule
from pure.optim.scale_by_shape import scale_by_shape
from pure.optim.schedule import (
    constant_schedule,
    cosine_decay_schedule,
    join_schedules,
    linear_schedule,
    polynomial_schedule,
)
from pure.optim.schedule_free import (
    ScheduleFreeState,
    schedule_free,
    schedule_free_adamw,
    schedule_free_eval_params,
)
from pure.optim.sgd import TraceState, sgd, trace
from pure.optim.soap import ScaleBySoapState, scale_by_soap, soap
from pure.optim.warmup import (
    sgdr_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_linear_decay_schedule,
    wsd_schedule,
)
from pure.optim.weight_decay import WeightDecaySchedule, add_decayed_weights
from pure.optim.zero_nans import ZeroNansState, zero_nans
from pure.types import GradientTransformation, Schedule

if not TYPE_CHECKING:  # a type checker then finds misspelled names
    from pure.optim.names import __getattr__  # noqa: F401  (Python calls it for a missing name)

__all__ = [
    "ApplyIfFiniteState",
    "EmaState",
    "EmptyState",
    "FactoredState",
    "GradientTransformation",
    "InjectStatefulHyperparamsState",
    "MaskedNode",
    "MaskedState",
    "MultiSteps",
    "MultiStepsState",
    "MuonDimensionNumbers",
    "MuonState",
    "PartitionState",
    "ReduceLROnPlateauState",
    "ScaleByAdamState",
    "ScaleByAdanState",
    "ScaleByAdemamixState",
    "ScaleByAmsgradState",
    "ScaleByLionState",
    "ScaleByNormuonState",
    "ScaleByRStdDevState",
    "ScaleByRStdDevWithCountState",
    "ScaleByRmsState",
    "ScaleByRmsWithCountState",
    "ScaleByRssState",
    "ScaleByScheduleState",
    "ScaleBySoapState",
    "Schedule",
    "ScheduleFreeState",
    "TraceState",
    "WeightDecaySchedule",
    "WrappedScheduleState",
    "ZeroNansState",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "add_cautious_decayed_weights",
    "add_decayed_weights",
    "ademamix",
    "all_finite",
    "amsgrad",
    "apply_if_finite",
    "apply_updates",
    "cautious",
    "cautious_adamw",
    "cautious_decay_adamw",
    "chain",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "constant_schedule",
    "cosine_decay_schedule",
    "decay_mask",
    "decay_rate_pow",
    "elementwise",
    "ema",
    "freeze",
    "half_life_schedule",
    "has_updated",
    "hidden_matrices",
    "identity",
    "incremental_update",
    "inject_hyperparams",
    "is_elementwise",
    "is_leafwise",
    "join_schedules",
    "lamb",
    "leafwise",
    "linear_schedule",
    "lion",
    "masked",
    "multi_transform",
    "muon",
    "nadam",
    "nadamw",
    "normuon",
    "orthogonalize",
    "partition",
    "path_mask",
    "polynomial_schedule",
    "radam",
    "reduce_on_plateau",
    "rmsprop",
    "scale",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_ademamix",
    "scale_by_amsgrad",
    "scale_by_factored_rms",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_muon",
    "scale_by_normuon",
    "scale_by_param_block_rms",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_shape",
    "scale_by_soap",
    "scale_by_stddev",
    "scale_by_trust_ratio",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "selective_transform",
    "set_to_zero",
    "sgd",
    "sgdr_schedule",
    "skip_large_updates",
    "skip_not_finite",
    "soap",
    "trace",
    "warmed_decay",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_linear_decay_schedule",
    "wsd_schedule",
    "zero_nans",
]
