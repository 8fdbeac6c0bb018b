"""JAX beside torch: arrays, keys, functions and optimizers of either library in the other.

Needs `pip install 'intro2llm[jax]'`. Nothing else in this project does: no other module imports JAX when it
is imported.

On a GPU, JAX by default reserves most of the memory when it first runs. Where torch shares the GPU, start
Python with the environment variable XLA_PYTHON_CLIENT_PREALLOCATE=false.
"""

try:
    import jax as _jax  # noqa: F401
except ImportError as error:
    raise ImportError(
        "pure.interop.jax needs JAX, which is not installed: pip install 'intro2llm[jax]'"
    ) from error

from pure.interop.jax.arrays import key_to_jax, key_to_torch, to_jax, to_torch
from pure.interop.jax.flax import from_flax, kernel_matrices, params_to_flax
from pure.interop.jax.functions import jax_fn_in_torch, torch_fn_in_jax

__all__ = [
    "from_flax",
    "jax_fn_in_torch",
    "kernel_matrices",
    "key_to_jax",
    "key_to_torch",
    "params_to_flax",
    "to_jax",
    "to_torch",
    "torch_fn_in_jax",
]
