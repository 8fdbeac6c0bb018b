"""Per-sample gradients: ours against Opacus' hooks, time and memory.

    python benchmarks/per_sample_grad.py [--pairs N]

The default model (5.8M parameters, tied), 8 rows of 128 tokens, float32. The peer is an equal torch module
with torch.nn.RMSNorm and SDPA (its fastest parts) in Opacus' GradSampleModule; its gradients are checked
against ours. Both return B x 5.8M numbers, 185 MB, the least memory that either can need. "Clipped and added"
is the use in differential privacy, by `per_sample_fold`, which holds one gradient at a time; the peer's time
does not include clipping and adding. Memory is measured in new processes: the peak during the call minus what
was in use before it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from _timing import make_parser, peak_memory, print_header, print_row, time_pairs
from torch import Tensor, nn

from pure import random, tree
from pure.config import ModelConfig
from pure.loss.cross_entropy import cross_entropy
from pure.nn.position import rotate, rotation
from pure.nn.transformer import transformer
from pure.transform.jit import jit
from pure.transform.per_sample import per_sample_fold, per_sample_grad

ROWS, LENGTH = 8, 128
CONFIG = ModelConfig()
MODES = ("eager, whole", "compiled whole", "regions, clipped and added", "regions, chunk 1", "eager, chunk 1")


def main() -> None:
    """Print times against Opacus' and against its plain backward, then peak memory."""
    flags = make_parser(__doc__)
    flags.add_argument("--mode", choices=MODES, nargs="*", default=MODES[:3], help="modes of ours to time")
    options = flags.parse_args()
    check_gradients()
    print_header()
    opacus = peer()
    for mode in options.mode:
        print_row(f"per-sample gradients, {mode}", time_pairs(ours(mode), opacus, options.pairs), 1.0)
    print_row("Opacus against its plain backward", time_pairs(opacus, plain(), options.pairs))
    theirs = peak_memory(peer, warmup=2).above_rest
    print(f"{'memory above rest: Opacus':<44} {theirs / 1e6:7.0f} MB")
    for mode in options.mode:
        mine = peak_memory(ours, mode, warmup=2).above_rest
        print(f"{'memory above rest: ' + mode:<44} {mine / 1e6:7.0f} MB {theirs / mine:6.2f}x (target 2.00x)")


def batch() -> dict[str, Tensor]:
    """Return random tokens and labels [B, T]."""
    tokens = random.randint(random.key(1), (ROWS, LENGTH + 1), 0, CONFIG.vocab_size).long()
    return {"tokens": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}


def ours(mode: str) -> Callable[[], Any]:
    """Return a function that computes per-sample gradients in one of the MODES."""
    model = transformer(CONFIG)

    def loss(params: Any, batch: dict[str, Tensor], key: Tensor) -> tuple[Tensor, Tensor, dict]:
        total, count = cross_entropy(model.forward(params, batch["tokens"]), batch["labels"])
        return total, count, {}

    params, key = model.init(random.key(0)), random.key(2)
    if "added" in mode:
        fold = jit(per_sample_fold(loss, add_clipped), regions=True)
        return lambda: fold(params, batch(), key, tree.zeros_like(params))
    gradient = per_sample_grad(loss, chunk=1 if "chunk 1" in mode else None)
    if "eager" not in mode:
        gradient = jit(gradient, regions="regions" in mode)
    return partial(gradient, params, batch(), key)


def add_clipped(total: Any, grads: Any) -> Any:
    """Clip a sample's gradient to norm 1 and add it to the total, as differential privacy does."""
    norm = torch.stack([torch.linalg.vector_norm(g) for g in tree.leaves(grads)]).norm()
    factor = (1 / norm).clamp(max=1)
    return tree.map(lambda t, g: torch.add(t, g * factor), total, grads)


class Attention(nn.Module):
    """The peer's attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, head = config.hidden_size, config.head_dim or 0
        self.head = head
        self.q = nn.Linear(width, config.num_attention_heads * head, bias=False)
        self.k = nn.Linear(width, config.num_key_value_heads * head, bias=False)
        self.v = nn.Linear(width, config.num_key_value_heads * head, bias=False)
        self.o = nn.Linear(config.num_attention_heads * head, width, bias=False)
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        angles = rotation(torch.arange(x.shape[1])[None], config=self.config)
        q, k, v = (f(x).unflatten(-1, (-1, self.head)) for f in (self.q, self.k, self.v))
        q, k = rotate(q, angles), rotate(k, angles)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """The peer's layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.attention = Attention(config)
        self.attention_norm = nn.RMSNorm(width, config.rms_norm_eps)
        self.feedforward_norm = nn.RMSNorm(width, config.rms_norm_eps)
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        x = x + self.attention(self.attention_norm(x))
        y = self.feedforward_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Transformer(nn.Module):
    """The peer: the same model as a torch module."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, V]."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def module(config: ModelConfig = CONFIG) -> Transformer:
    """Return the peer with our initial parameters."""
    model = Transformer(config)
    params = transformer(config).init(random.key(0))
    with torch.no_grad():
        model.embedding.weight.copy_(params["embedding"])
        model.head.weight.copy_(params.get("head", params["embedding"]))
        model.norm.weight.copy_(params["norm"]["scale"])
        for layer, layer_params in zip(model.layers, params["layers"], strict=True):
            for name in ("q", "k", "v", "o"):
                getattr(layer.attention, name).weight.copy_(layer_params["attention"][name])
            for name in ("gate", "up", "down"):
                getattr(layer, name).weight.copy_(layer_params["feedforward"][name])
    return model


def peer() -> Callable[[], Any]:
    """Return a function that computes per-sample gradients with Opacus."""
    warnings.filterwarnings("ignore")
    from opacus import GradSampleModule

    hooked, data = GradSampleModule(module(), batch_first=True, loss_reduction="sum"), batch()

    def gradients() -> list[Tensor]:
        backward(hooked, data)
        grads = [p.grad_sample for p in hooked.parameters()]
        hooked.zero_grad(set_to_none=True)  # only the caller holds the result, as with ours
        return grads

    return gradients


def plain() -> Callable[[], Any]:
    """Return a function that computes the peer's gradient of the whole batch, without Opacus."""
    bare, data = module(), batch()

    def gradients() -> list[Tensor]:
        backward(bare, data)
        grads = [p.grad for p in bare.parameters()]
        bare.zero_grad(set_to_none=True)
        return grads

    return gradients


def backward(model: nn.Module, data: dict[str, Tensor]) -> None:
    """Run one forward and backward pass of the summed loss."""
    F.cross_entropy(model(data["tokens"]).flatten(0, 1), data["labels"].flatten(), reduction="sum").backward()


def check_gradients() -> None:
    """Check that the leaves of both sides' gradients have the same norms."""
    mine, theirs = tree.leaves(ours(MODES[0])()), peer()()
    a, b = (sorted(x.double().square().sum().item() for x in xs) for xs in (mine, theirs))
    assert len(a) == len(b)
    assert all(abs(x - y) <= 1e-4 * y for x, y in zip(a, b, strict=True)), "the gradients differ from Opacus'"


if __name__ == "__main__":
    main()
