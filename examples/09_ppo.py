"""PPO: a value function predicts the reward at each token, and the policy learns from the prediction error.

The step is split into its parts, rollout, score and update, as you would in a training loop of your own.

    python examples/09_ppo.py
"""

import sys

import torch

from data_pipes.prompts import prompt_pipe
from pure import optim, random
from pure.config import ModelConfig
from pure.generation.sampling import Sampling
from pure.nn.transformer import transformer
from stages.online import generate_and_score
from stages.ppo import ppo
from stages.rollout import Rollouts

VOCABULARY, NEW_TOKENS = 32, 10


def score_increasing(rollouts: Rollouts) -> torch.Tensor:
    """Reward: the share of tokens that are larger than the one before. Works on ids; no text is needed."""
    tokens = rollouts.tokens[:, -NEW_TOKENS:]
    return (tokens[:, 1:] > tokens[:, :-1]).float().mean(1, keepdim=True)


def main(steps: int = 30) -> tuple[float, float]:
    """Returns the mean reward of the first and the last step."""
    prompts = [torch.tensor([i, i + 1]).numpy() for i in range(8)]
    pipe = prompt_pipe(prompts, batch_size=8, length=2, key=0, epochs=steps)
    config = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformer(
        ModelConfig(vocab_size=VOCABULARY, num_hidden_layers=2, max_position_embeddings=64, **config)
    )
    stage = ppo(
        model,
        optim.adamw(3e-3),
        score=score_increasing,
        samples=8,
        sampling=Sampling(max_new_tokens=NEW_TOKENS),
        epochs=3,
        minibatches=2,
        beta=0.0,
    )
    state = stage.init(random.key(0), model.init(random.key(1)))
    rewards = []
    for number, batch in enumerate(pipe):
        rollouts, scores = generate_and_score(state, batch, parts=stage.parts)
        state = stage.parts.update(state, rollouts, scores)
        rewards.append(float(state.metrics["reward"]))
        if number % 5 == 0:
            names = ("reward", "values/mean", "value_loss", "entropy", "clip_ratio/region_mean")
            print(f"{number:>3} " + " · ".join(f"{name} {state.metrics[name]:.3f}" for name in names))
    return rewards[0], rewards[-1]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
