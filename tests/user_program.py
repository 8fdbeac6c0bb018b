"""A user's program, which type-checks against the installed package with `mypy --strict`.

Text, tokenizer and pipe; a model; a loss of its own in `stage`; an optimizer chain with a link of its own; the
fold, and a loop written by hand; adapters, a population, gradients of each example, a checkpoint; sampling.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from typing import NamedTuple

import torch
from torch import Tensor

from data_pipes import tokenizer as tokenizers
from data_pipes.pretrain import pretrain_pipe
from data_pipes.tokenize import tokenize
from data_pipes.types import Document, Pipe
from pure import optim, random, tree
from pure.adapt.lora import lora
from pure.config import ModelConfig
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.loss.cross_entropy import cross_entropy
from pure.nn.transformer import transformer
from pure.transform.grad import value_and_grad
from pure.transform.jit import jit
from pure.transform.per_sample import per_sample_grad
from pure.types import GradientTransformation, Model, Schedule, Tree
from stages.checkpoint import checkpoint
from stages.dpo import dpo
from stages.population import population
from stages.pretrain import pretrain
from stages.stage import Stage, loss_of, stage
from stages.state import TrainState

TEXT = "A training run is a fold: state = reduce(step, batches, start). " * 40


class NoiseState(NamedTuple):
    """Number of updates."""

    updates: Tensor


def add_noise(scale: float, seed: int) -> GradientTransformation:
    """Add normal noise to the updates."""

    def init(params: Tree) -> NoiseState:
        return NoiseState(torch.zeros((), dtype=torch.int32))

    def update(
        updates: Tree, state: NoiseState, params: Tree | None = None, **extra: Tensor
    ) -> tuple[Tree, NoiseState]:
        leaves, structure = tree.flatten(updates)
        keys = random.split(random.fold_in(random.key(seed), state.updates), len(leaves))
        noisy = [x + scale * random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
        return tree.unflatten(structure, noisy), NoiseState(state.updates + 1)

    return GradientTransformation(init, update)


def confident(
    params: Tree, batch: Tree, key: Tensor | None, *, model: Model, penalty: float
) -> tuple[Tensor, Tensor, dict[str, Tensor | tuple[Tensor, Tensor]]]:
    """Cross-entropy minus `penalty` times the entropy of the predictions."""
    logits = model.forward(params, batch["tokens"], key=key)
    total, count = cross_entropy(logits, batch["labels"])
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum()
    return total - penalty * entropy, count, {"entropy": (entropy, count)}


def make_pipe(size: int) -> tuple[tokenizers.Tokenizer, Pipe]:
    """Train a tokenizer, and make the batches."""
    tokenizer = tokenizers.train([TEXT], size)
    store = tokenize(
        [Document(TEXT, "text")],
        tokenizer,
        vocab_size=tokenizers.vocabulary_size(tokenizer),
        separator_id=tokenizers.special_id(tokenizer, "<|endoftext|>"),
    )
    return tokenizer, pretrain_pipe(store, batch_size=4, length=16, key=0, epochs=2)


def train_by_hand(model: Model, optimizer: GradientTransformation, pipe: Pipe, steps: int) -> Tree:
    """Return the params after some steps of a loop without a stage."""
    params = model.init(random.key(1))
    opt_state = optimizer.init(params)

    def loss(params: Tree, batch: Tree) -> Tensor:
        total, count, _ = confident(params, batch, None, model=model, penalty=0.1)
        return total / count

    for index in range(steps):
        value, grads = value_and_grad(loss)(params, pipe[index])
        updates, opt_state = optimizer.update(grads, opt_state, params, value=value)
        params = optim.apply_updates(params, updates)
    return params


def main(steps: int = 3) -> str:
    """Run every part, and return a generated text."""
    tokenizer, pipe = make_pipe(280)
    model = transformer(
        ModelConfig(
            vocab_size=tokenizers.vocabulary_size(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
        )
    )
    rate: Schedule = optim.warmup_cosine_decay_schedule(0.0, 3e-3, 2, 10)
    optimizer = optim.chain(
        optim.clip_by_global_norm(1.0), add_noise(1e-4, 7), optim.adamw(rate, weight_decay=0.1)
    )
    loss = functools.partial(confident, model=model, penalty=0.1)
    own: Stage = stage(loss, optimizer, init=model.init, metrics=("entropy",), accumulation=2)
    start: TrainState = own.init(random.key(0))
    state = functools.reduce(own.step, [pipe[i] for i in range(steps)], start)
    entropy: float = state.metrics["entropy"].item()
    step = jit(own.step, backend="eager")
    state = step(state, pipe[0])

    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(folder, state)
        state = checkpoint.load(folder, state).state

    params = train_by_hand(model, optimizer, pipe, steps)
    built_in = pretrain(model, optimizer, z_loss=1e-4)
    seeds = population(built_in, 2)
    members = seeds.step(seeds.init(random.key(2)), pipe[0])
    losses, grads = per_sample_grad(loss_of(built_in), value=True)(params, pipe[0], random.key(3))
    adapters = lora(model, params, rank=2)
    preferences = dpo(adapters, optim.muon(1e-3), reference=adapters.init(random.key(4)), beta=0.1)
    assert preferences.loss is not None

    generated = generate(
        model,
        state.params,
        [tokenizer.encode("A training")],
        Sampling(max_new_tokens=8, temperature=0.5),
        key=random.key(5),
    )
    count: int = int(generated.lengths[0])
    print(f"entropy {entropy:.3f}, {len(tree.leaves(grads))} gradients, {losses.shape}, {members.step}")
    return tokenizer.decode(generated.tokens[0, :count].tolist())


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:])))
