"""Direct preference optimization: make the chosen one of two answers more likely.

The pairs prefer capitals. The reference's log-probabilities are computed once, before the first step; then
every step takes the gradient of one forward pass of both answers.

    python examples/07_dpo.py
"""

import functools
import sys

from data_pipes.chat.chat import chat_template
from data_pipes.preference import preference_pipe, with_reference
from data_pipes.record_encoding import encode_preferences
from data_pipes.rows.records import read_preferences
from data_pipes.tokenizer.trainer import train
from data_pipes.types import Row
from pure import optim, random
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from stages.dpo import dpo

WORDS = ("red", "green", "blue", "white", "black", "grey", "pink", "gold")


def main(steps: int = 40) -> tuple[float, float]:
    """Trains on six words, returns the reward margin of the held-out pairs before and after."""
    rows = [
        Row({"prompt": f"Say {word}", "chosen": word.upper(), "rejected": word}, f"word {i}")
        for i, word in enumerate(WORDS)
    ]
    texts = [f"Say {word} {word.upper()}" for word in WORDS]
    tokenizer = train(texts, 264, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    pairs = encode_preferences(chat_template(), tokenizer, read_preferences(rows))
    config = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformer(
        ModelConfig(vocab_size=280, num_hidden_layers=2, max_position_embeddings=64, **config)
    )
    reference = model.init(random.key(0))

    pipe = with_reference(
        preference_pipe(pairs[:6], batch_size=6, length=40, key=0, epochs=steps), model, reference
    )
    held_out = with_reference(preference_pipe(pairs[6:], batch_size=2, length=40, key=0), model, reference)
    stage = dpo(model, optim.adamw(1e-3), beta=0.1)
    state = stage.init(random.key(1), reference)
    before = stage.step(state, held_out[0]).metrics  # a step is pure: its metrics are those before the update
    state = functools.reduce(stage.step, pipe, state)
    after = stage.step(state, held_out[0]).metrics
    for name, metrics in (("before", before), ("after", after)):
        print(
            f"{name}: accuracy {metrics['rewards/accuracies']:.2f}, margin {metrics['rewards/margins']:.3f}"
        )
    return float(before["rewards/margins"]), float(after["rewards/margins"])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
