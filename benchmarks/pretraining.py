"""One pretraining step beside transformers' Llama: tokens a second, memory, and the distance to the bare
products.

Model: 5.8M parameters (256 wide, 6 layers, 8 heads, 4 key-value heads, 768 inside, vocabulary 4096). Batch: 8
rows of 256 tokens, bfloat16 products, float32 weights, AdamW, clipping to norm 1. Ours is `jit(step,
donate=True, regions=True)`; the peer is `LlamaForCausalLM` compiled, under autocast, with torch's fused
AdamW. Both see the same tokens and labels.

    python benchmarks/pretraining.py [--pairs N]
"""

from __future__ import annotations

from collections.abc import Callable

import _timing
import torch
from torch import Tensor

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.transform.jit import jit
from stages.pretrain import pretrain
from stages.run.allocator import keep_freed_memory

ROWS, LENGTH = 8, 256
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def config(layers: int = 6) -> ModelConfig:
    """The model of the comparison."""
    return ModelConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )


def batch() -> tuple[Tensor, Tensor]:
    """Tokens and labels [B, T]."""
    drawn = random.randint(random.key(1), (ROWS, LENGTH + 1), 0, 4096).long().to(DEVICE)
    return drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous()


def our_step(layers: int = 6) -> Callable[[], Tensor]:
    """A function that takes one step and returns its loss."""
    chained = optim.chain(
        optim.clip_by_global_norm(1.0), optim.adamw(1e-3, weight_decay=0.1, mask=optim.decay_mask)
    )
    made = pretrain(transformer(config(layers)), chained, compute=torch.bfloat16)
    step = jit(made.step, donate=True, regions=True)
    state = made.init(random.key(0, device=DEVICE))
    tokens, labels = batch()

    def take() -> Tensor:
        return step(state, {"tokens": tokens, "labels": labels}).metrics["loss"]

    return take


def peer_step(layers: int = 6) -> Callable[[], Tensor]:
    """The same with transformers and torch.optim."""
    from transformers import LlamaConfig, LlamaForCausalLM

    ours = config(layers)
    settings = LlamaConfig(
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden_size,
        intermediate_size=ours.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=ours.num_attention_heads,
        num_key_value_heads=ours.num_key_value_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = LlamaForCausalLM(settings).to(DEVICE).train()
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    tokens, labels = batch()

    def take() -> Tensor:
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(compiled(tokens).logits.flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return take


def bare_products(layers: int = 6) -> Callable[[], None]:
    """The step's matrix products and nothing else: each weight forward and twice backward, attention's two
    likewise."""
    ours, count = config(layers), ROWS * LENGTH
    width, inner, heads = ours.hidden_size, ours.intermediate_size, ours.num_attention_heads
    queries = heads * (ours.head_dim or 0)
    keys = ours.num_key_value_heads * (ours.head_dim or 0)
    shapes = (
        [(queries, width), (keys, width), (keys, width), (width, queries)]
        + [(inner, width)] * 2
        + [(width, inner)]
    )
    weights = [(shape, layers) for shape in shapes] + [((ours.vocab_size, width), 1)]
    new = {"dtype": torch.bfloat16, "device": DEVICE}
    linear = [
        (torch.randn(o, i, **new), torch.randn(count, i, **new), torch.randn(count, o, **new), n)
        for (o, i), n in weights
    ]
    q, k = (torch.randn(ROWS * heads, LENGTH, ours.head_dim, **new) for _ in range(2))
    scores = torch.randn(ROWS * heads, LENGTH, LENGTH, **new)

    def take() -> None:
        for weight, x, y, times in linear:
            for _ in range(times):
                x @ weight.T, y @ weight, y.T @ x
        for _ in range(layers):
            q @ k.mT, scores @ k, scores @ k, scores.mT @ q, scores @ q, scores.mT @ q

    return take


def kept(make: Callable[[], Callable], keep: bool = True) -> Callable:
    """A side in a process that keeps what it frees, as `stages.run.loop.run` sets it, or that is left as it
    is."""
    if keep:
        keep_freed_memory()
    return make()


def main() -> None:
    """Prints the table."""
    arguments = _timing.parser(__doc__).parse_args()
    size = tree.count(transformer(config()).spec)
    print(f"{torch.get_num_threads()} threads, {DEVICE}, torch {torch.__version__}, {size:,} parameters")
    ours, plain = _timing.apart(kept, our_step), _timing.apart(kept, our_step, False)
    peer, lent = _timing.apart(kept, peer_step, False), _timing.apart(kept, peer_step)
    _timing.header()
    rate = {"items": ROWS * LENGTH, "unit": "tok"}
    _timing.row("step, as each is run", _timing.paired(ours, peer, arguments.pairs), 1.5, **rate)
    _timing.row("both keep freed memory", _timing.paired(ours, lent, arguments.pairs), **rate)
    _timing.row("neither keeps freed memory", _timing.paired(plain, peer, arguments.pairs), **rate)
    floor = _timing.paired(ours, _timing.apart(kept, bare_products), arguments.pairs)
    _timing.row("bare products over the step (at least 1/2)", floor, 0.5)
    mine, theirs = (_timing.peak_memory(make, warmup=2) for make in (our_step, peer_step))
    gained = [(m.peak - m.rest) / 2**20 for m in (mine, theirs)]
    total = [m.peak / 2**20 for m in (mine, theirs)]
    print(
        f"peak memory of a step above rest: ours {gained[0]:.0f} MiB, peer {gained[1]:.0f} MiB, "
        f"{'reached' if gained[0] <= gained[1] else 'MISSED'}; whole process {total[0]:.0f} and {total[1]:.0f} MiB"
    )


if __name__ == "__main__":
    main()
