"""Function transformations: gradients, accumulation, rematerialisation, precision, compilation."""

from pure.transform.accumulate import Accumulated, accumulate
from pure.transform.grad import grad, value_and_grad
from pure.transform.jit import jit, region
from pure.transform.per_sample import per_sample_fold, per_sample_grad
from pure.transform.precision import LossScale, loss_scale, mixed
from pure.transform.remat import remat

__all__ = [
    "Accumulated",
    "LossScale",
    "accumulate",
    "grad",
    "jit",
    "loss_scale",
    "mixed",
    "per_sample_fold",
    "per_sample_grad",
    "region",
    "remat",
    "value_and_grad",
]
