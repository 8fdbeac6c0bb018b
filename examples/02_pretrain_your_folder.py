"""Pretraining on your own folder of text, with the pieces in your hands: documents, tokenizer, store, pipe,
stage, run.

The command line does the same: `intro2llm pretrain --data_path FOLDER`. Without a folder, a few modules of
Python's own library are read. Kill it and start it again: it goes on where it was, or says that its steps
were taken.

    python examples/02_pretrain_your_folder.py [FOLDER] [STEPS] [OUTPUT]
"""

import sys
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
    """Trains a tokenizer and a model on the folder; returns the last loss in nats a token."""
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

    place = output
    what = fingerprint(stage, pipe, tokenizer)  # so that another stage or text is refused, not gone on with
    options = RunOptions(compile=False, save_every=50)
    outcome = run(stage, pipe, place, key=random.key(0), fingerprint=what, options=options)
    prompt = tokenizer.encode("def ")
    found = generate(model, outcome.state.params, [prompt], Sampling(max_new_tokens=40), key=random.key(1))
    print("def " + tokenizer.decode(found.tokens[0, : found.lengths[0]].tolist()))
    print(f"metrics and checkpoints are in {place}")
    return float(outcome.state.metrics["loss"])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None, *map(int, sys.argv[2:3]), *sys.argv[3:4])
