"""JAX beside torch: arrays, keys, functions and optimizers of either library in the other.

Needs `pip install 'intro2llm[jax]'`. Nothing else in this project does: no other module imports JAX when it
is imported.

On a GPU, JAX by default reserves most of the memory when it first runs. Where torch shares the GPU, start
Python with the environment variable XLA_PYTHON_CLIENT_PREALLOCATE=false.

On a CPU, jaxlib 0.10.2 itself computes some rows wrongly under jax.jit where a product with each of more than
16,384 rows is reduced (`vmap(lambda row: ((m @ row) ** 2).sum())`). jaxlib 0.10.1 does not, nor does 0.10.2
with the environment variable XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=-reduce.

Fine-tune a published model in a JAX loop of your own, and give it back to transformers:

    intro2llm export --model_path HuggingFaceTB/SmolLM2-135M --dtype float32 --format orbax --output_dir smol

    from pathlib import Path
    import jax, optax
    import data_pipes.tokenizer
    from orbax.checkpoint import StandardCheckpointer
    from pure.interop.jax import model_in_jax
    from pure.nn.transformer import transformer
    from stages.models import language_model

    folder = Path("smol").absolute()  # Orbax takes absolute paths
    init, apply = model_in_jax(transformer(language_model.read_config(folder)))
    tokenizer = data_pipes.tokenizer.load(folder)
    with StandardCheckpointer() as checkpointer:
        params = checkpointer.restore(folder / "params")

    def loss(params, tokens):  # [B, T] of tokenizer.encode(text), which is a list of ids
        logits = apply(params, tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    ...  # jax.jit of jax.value_and_grad(loss) and any optax optimizer; rows of several lengths need a mask
    with StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "tuned", params)

    intro2llm import --model_path smol/tuned --output_dir tuned  # or any stage: --model_path smol/tuned

Without files: `base = language_model.load(path, dtype=torch.float32)`, `params = to_jax(base.params)`, and in
the end `language_model.save("tuned", base._replace(params=to_torch(params)))`.
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
from pure.interop.jax.lower import lower
from pure.interop.jax.model import decode_in_jax, model_in_jax
from pure.interop.jax.optax import from_optax, state_from_optax, state_to_optax, to_optax
from pure.interop.jax.trace_modes import Uncovered

__all__ = [
    "Uncovered",
    "decode_in_jax",
    "from_flax",
    "from_optax",
    "jax_fn_in_torch",
    "kernel_matrices",
    "key_to_jax",
    "key_to_torch",
    "lower",
    "model_in_jax",
    "params_to_flax",
    "state_from_optax",
    "state_to_optax",
    "to_jax",
    "to_optax",
    "to_torch",
    "torch_fn_in_jax",
]
