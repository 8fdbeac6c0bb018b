"""Function transformations: gradients, accumulation, rematerialisation, precision, compilation."""

from pure.transform.accumulate import Accumulated, accumulate
from pure.transform.grad import grad, value_and_grad
from pure.transform.jit import jit, region
from pure.transform.per_sample import per_sample_fold, per_sample_grad, per_sample_map
from pure.transform.precision import LossScale, loss_scale, mixed
from pure.transform.remat import remat
from pure.transform.sketch import count_sketch, projected

__all__ = [
    "Accumulated",
    "LossScale",
    "accumulate",
    "count_sketch",
    "grad",
    "jit",
    "loss_scale",
    "mixed",
    "per_sample_fold",
    "per_sample_grad",
    "per_sample_map",
    "projected",
    "region",
    "remat",
    "value_and_grad",
]
