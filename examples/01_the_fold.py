"""The fold in thirty lines: a language model memorises a line of text.

A training run is `functools.reduce(stage.step, pipe, stage.init(key))`. The model, the optimizer and the
stage are tuples of functions, and the state is a tree of tensors.

    python examples/01_the_fold.py
"""

import functools
import sys

import torch

from pure import optim, random
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from stages.pretrain import pretrain

TEXT = b"A training run is a fold: state = reduce(step, batches, start). "


def main(steps: int = 150) -> float:
    """Trains, and returns the last loss in nats a byte."""
    config = ModelConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model = transformer(config)
    stage = pretrain(model, optim.adamw(optim.warmup_cosine_decay_schedule(0.0, 3e-3, 10, steps)))
    row = torch.tensor(list(TEXT))
    pipe = [{"tokens": row[None, :-1], "labels": row[None, 1:]}] * steps

    state = functools.reduce(stage.step, pipe, stage.init(random.key(0)))

    predicted = model.forward(state.params, row[None, :-1]).argmax(-1)[0]
    print(f"loss after {int(state.step)} steps: {state.metrics['loss']:.4f} nats a byte")
    print("predicted text:", bytes(predicted.tolist()).decode(errors="replace"))
    return float(state.metrics["loss"])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
