"""The gradient noise scale while a model trains: how many rows a batch needs, step by step and layer by layer.

`noise_scale` computes a stage's gradient in micro-batches, and compares them (McCandlish et al., 2018). Early
in training all rows agree, and small batches suffice; later the gradient is mostly noise, and larger batches
pay. The band is the 95% interval; where the line is missing, the estimate is not resolved. The last picture
shows which leaves of the params see signal, and which see noise.

    python examples/27_noise_scale.py [STEPS] [PICTURE.png]
"""

import sys
from itertools import islice

from data_pipes import tokenizer as tokenizers
from data_pipes.embedded import python_library
from data_pipes.pretrain import pretrain_pipe
from data_pipes.tokenize import tokenize
from pure import optim, random
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.transform.noise_scale import METRICS, noise_scale, signal_to_noise
from stages.pretrain import pretrain


def main(steps: int = 200, picture: str = "noise_scale.png") -> list[float]:
    """Trains a small model on Python's library, draws its noise scale, returns it at each step, in rows."""
    texts = list(islice(python_library.documents("train"), 20))
    tokenizer = tokenizers.train((document.text for document in texts), 512)
    size = tokenizers.vocabulary_size(tokenizer)
    end = tokenizers.special_id(tokenizer, "<|endoftext|>")
    store = tokenize(texts, tokenizer, vocab_size=size, separator_id=end)
    pipe = pretrain_pipe(store, batch_size=16, length=32, key=0, epochs=1000)[:steps]
    model = transformer(
        ModelConfig(
            vocab_size=size,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
        )
    )
    stage = pretrain(model, optim.adamw(3e-3), gradient=noise_scale(parts=4, decay=0.95))
    state, curve = stage.init(random.key(0)), []
    for batch in pipe:
        state = stage.step(state, batch)
        curve.append([float(state.metrics[name]) for name in ("loss", *METRICS)])
    loss, scale, low, high = zip(*curve, strict=True)
    ratios = {path: float(x) for path, x in signal_to_noise(state.extra["gradient"], state.params).items()}
    print(f"after {steps} steps: loss {loss[-1]:.2f}, noise scale {scale[-1]:.0f} rows ", end="")
    print(f"({low[-1]:.0f} to {high[-1]:.0f}); a batch has 16")
    draw(picture, loss, scale, low, high, ratios)
    return list(scale)


def draw(path: str, loss: tuple, scale: tuple, low: tuple, high: tuple, ratios: dict[str, float]) -> None:
    """Draws the loss, the noise scale with its interval, and the signal to noise of each leaf."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.plot(loss)
    left.set(title="loss", xlabel="step", ylabel="nats a token")
    steps = range(len(scale))
    middle.fill_between(steps, low, high, alpha=0.3, label="95%")
    middle.plot(scale, label="noise scale")
    middle.axhline(16, color="black", linestyle=":", label="rows in a batch")
    middle.set(title="gradient noise scale", xlabel="step", ylabel="rows", yscale="log")
    middle.legend()
    names = sorted(ratios, key=lambda path: ratios[path])
    right.barh(names, [ratios[name] for name in names])
    right.set(title="signal to noise of one row", xlabel="|g|² / tr Σ")
    right.tick_params(axis="y", labelsize=6)
    figure.savefig(path, dpi=110)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, str), sys.argv[1:], strict=False)))
