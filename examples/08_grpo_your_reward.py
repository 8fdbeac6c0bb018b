"""GRPO with a reward of your own: write `reward`, everything else is twenty lines.

python examples/08_grpo_your_reward.py
"""

import sys

import numpy as np

from data_pipes.prompts import prompt_pipe
from data_pipes.tokenizer.spec import vocabulary_size
from data_pipes.tokenizer.trainer import train
from pure import optim, random
from pure.config import ModelConfig
from pure.generation.sampling import Sampling
from pure.nn.transformer import transformer
from stages.grpo import grpo
from stages.score import text_score


def reward(prompt: str, completion: str, row: dict) -> float:
    """Your reward: here, the share of vowels."""
    return sum(letter in "aeiou" for letter in completion) / max(len(completion), 1)


def main(steps: int = 40) -> tuple[float, float]:
    """Train a new model on its own answers; return the mean reward of the first and the last step."""
    tokenizer = train(["abcdefghijklmnopqrstuvwxyz "], 260, special_tokens=["<|end|>"])
    prompts = ["say something:", "and then?", "go on:"]
    pipe = prompt_pipe(
        [np.array(tokenizer.encode(text)) for text in prompts], batch_size=3, length=16, key=0, epochs=steps
    )
    score = text_score({"vowels": reward}, decode=tokenizer.decode, prompts=prompts, rows=[{}] * len(prompts))
    config = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformer(
        ModelConfig(
            vocab_size=vocabulary_size(tokenizer), num_hidden_layers=2, max_position_embeddings=64, **config
        )
    )
    sampling = Sampling(max_new_tokens=8)
    stage = grpo(model, optim.adamw(3e-3), score=score, rewards=("vowels",), samples=16, sampling=sampling)
    state = stage.init(random.key(0))
    rewards = []
    for batch in pipe:
        state = stage.step(state, batch)
        rewards.append(float(state.metrics["reward"]))
    print(
        "mean reward:",
        " ".join(f"{value:.2f}" for value in rewards[:: max(1, steps // 10)]),
        f"{rewards[-1]:.2f}",
    )
    return rewards[0], rewards[-1]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
