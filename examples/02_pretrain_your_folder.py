"""Pretraining on your own folder of text, step by step through the API: documents, tokenizer, token store,
pipe, stage, run.

The command line does the same: `intro2llm pretrain --data_path FOLDER`. Without a folder, a few modules of
Python's standard library are read. Kill it and start it again: it resumes from its last checkpoint, or says
that all steps are done.

    python examples/02_pretrain_your_folder.py [FOLDER] [STEPS] [OUTPUT]
"""

import argparse
from itertools import islice

import torch

from data_pipes import tokenizer as tokenizers
from data_pipes.embedded import python_library
from data_pipes.pretrain import pretrain_pipe
from data_pipes.source.path import documents
from data_pipes.tokenize import tokenize
from pure import optim, random
from pure.config import ModelConfig
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.nn.transformer import transformer
from stages.checkpoint.fingerprint import fingerprint
from stages.pretrain import pretrain
from stages.run.loop import RunOptions, run


def main(folder: str | None = None, steps: int = 150, output: str = "runs/example-02") -> float:
    """Trains a tokenizer and a model on the folder; returns the last loss in nats per token."""
    texts = list(documents(folder)) if folder else list(islice(python_library.documents("train"), 40))
    tokenizer = tokenizers.train((document.text for document in texts), 1024)
    end = tokenizers.special_id(tokenizer, "<|endoftext|>")
    size = tokenizers.vocabulary_size(tokenizer)
    store = tokenize(texts, tokenizer, vocab_size=size, separator_id=end)
    pipe = pretrain_pipe(store, batch_size=16, length=64, key=0, epochs=1000)[:steps]

    config = ModelConfig(
        vocab_size=size,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=end,
    )
    model = transformer(config)
    rate = optim.warmup_cosine_decay_schedule(0.0, 4e-3, steps // 10, steps)
    optimizer = optim.chain(
        optim.clip_by_global_norm(1.0), optim.adamw(rate, weight_decay=0.1, mask=optim.decay_mask)
    )
    stage = pretrain(model, optimizer, compute=torch.bfloat16)

    # Stored in the checkpoints: resuming with another stage, text or tokenizer is refused.
    identity = fingerprint(stage, pipe, tokenizer)
    options = RunOptions(compile=False, save_every=50)
    result = run(stage, pipe, output, key=random.key(0), fingerprint=identity, options=options)
    prompt = tokenizer.encode("def ")
    generated = generate(model, result.state.params, [prompt], Sampling(max_new_tokens=40), key=random.key(1))
    print("def " + tokenizer.decode(generated.tokens[0, : generated.lengths[0]].tolist()))
    print(f"metrics and checkpoints are in {output}")
    return float(result.state.metrics["loss"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("steps", nargs="?", type=int, default=150)
    parser.add_argument("output", nargs="?", default="runs/example-02")
    main(**vars(parser.parse_args()))
