"""Five optimizers on the same small language model, four seeds each: which differences are more than noise?

Each optimizer is one line, and each trains its four seeds as one `population`. The band in the picture is the
range of the seeds. Each learning rate was the best of five, a factor of two apart, for this model;
`benchmarks/optimizers.py` chooses them in the same way, and counts the steps to a common loss, with p-values.

    python examples/23_compare_optimizers.py [STEPS] [PICTURE.png]
"""

import sys
from collections.abc import Mapping
from itertools import islice

import torch

from data_pipes import tokenizer as tokenizers
from data_pipes.embedded import python_library
from data_pipes.pretrain import pretrain_pipe
from data_pipes.tokenize import tokenize
from pure import optim, random
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.types import GradientTransformation, Schedule
from stages.population import population
from stages.pretrain import pretrain

SEEDS, WARMUP = 4, 10


def warmed_up(rate: float) -> Schedule:
    """A learning rate that rises linearly, and then stays."""
    return optim.warmup_constant_schedule(0.0, rate, WARMUP)


OPTIMIZERS: Mapping[str, GradientTransformation] = {
    "AdamW": optim.adamw(warmed_up(4e-3), b2=0.95),
    "Lion": optim.lion(warmed_up(2e-3)),
    "cautious AdamW": optim.cautious_adamw(warmed_up(4e-3), b2=0.95),
    "Muon": optim.muon(
        warmed_up(1.6e-2), consistent_rms=0.2, muon_weight_dimension_numbers=optim.hidden_matrices
    ),
    "SOAP": optim.soap(warmed_up(8e-3), max_precond_dim=128),
}


def main(steps: int = 100, picture: str = "optimizers.png") -> dict[str, float]:
    """Trains all, draws their losses, and returns the mean loss of each over its last ten steps, in nats."""
    texts = list(islice(python_library.documents("train"), 20))
    tokenizer = tokenizers.train((document.text for document in texts), 512)
    size, end = tokenizers.vocabulary_size(tokenizer), tokenizers.special_id(tokenizer, "<|endoftext|>")
    store = tokenize(texts, tokenizer, vocab_size=size, separator_id=end)
    pipe = pretrain_pipe(store, batch_size=8, length=32, key=0, epochs=1000)[:steps]
    model = transformer(
        ModelConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
        )
    )
    curves = {}
    for name, optimizer in OPTIMIZERS.items():
        stage = population(pretrain(model, optimizer), SEEDS)
        state, losses = stage.init(random.key(0)), []
        for batch in pipe:
            state = stage.step(state, batch)
            losses.append(state.metrics["loss"])
        curves[name] = torch.stack(losses, 1)
        last = curves[name][:, -10:].mean(1)
        print(f"{name:15} {last.mean():.3f} ± {last.std():.3f} nats in the last ten steps")
    draw_losses(picture, curves)
    return {name: float(curve[:, -10:].mean()) for name, curve in curves.items()}


def draw_losses(path: str, curves: dict[str, torch.Tensor]) -> None:
    """Draws the loss of each optimizer over the steps, with the range of its seeds, and the last losses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    for i, (name, curve) in enumerate(curves.items()):
        smooth = torch.nn.functional.avg_pool1d(curve[:, None], min(9, curve.shape[1]), 1)[:, 0]
        steps = range(curve.shape[1] - smooth.shape[1], curve.shape[1])
        left.fill_between(steps, smooth.amin(0), smooth.amax(0), alpha=0.25)
        left.plot(steps, smooth.mean(0), label=name)
        last = curve[:, -10:].mean(1)
        right.plot(last, [i] * len(last), "o", alpha=0.6)
        right.plot([last.mean()] * 2, [i - 0.25, i + 0.25], color="black")
    left.set(title=f"training loss, mean and range of {SEEDS} seeds", xlabel="step", ylabel="nats a token")
    left.legend()
    right.set(title="last ten steps, each seed", xlabel="nats a token", yticks=range(len(curves)))
    right.set_yticklabels(list(curves))
    right.invert_yaxis()
    figure.savefig(path, dpi=110)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, str), sys.argv[1:], strict=False)))
