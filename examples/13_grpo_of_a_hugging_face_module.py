"""GRPO of an unchanged transformers model: any torch module becomes a Model in one call.

python examples/13_grpo_of_a_hugging_face_module.py
"""

import sys

import numpy as np
import torch
import transformers

from data_pipes.prompts import prompt_pipe
from data_pipes.tokenizer.spec import vocabulary_size
from data_pipes.tokenizer.trainer import train
from pure import optim, random
from pure.generation.sampling import Sampling
from pure.interop.module import from_module, hugging_face
from stages.grpo import grpo
from stages.score import text_score


def reward(prompt: str, completion: str, row: dict) -> float:
    """The share of vowels."""
    return sum(letter in "aeiou" for letter in completion) / max(len(completion), 1)


def main(steps: int = 30) -> tuple[float, float]:
    """Trains a new Qwen3 of two layers; returns the mean reward of the first and the last step."""
    tokenizer = train(["abcdefghijklmnopqrstuvwxyz "], 260, special_tokens=["<|end|>"])
    torch.manual_seed(0)
    module = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=vocabulary_size(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=64,
        )
    )
    model = from_module(module, forward=hugging_face)
    prompts = ["say something:", "and then?", "go on:"]
    pipe = prompt_pipe(
        [np.array(tokenizer.encode(text)) for text in prompts], batch_size=3, length=16, key=0, epochs=steps
    )
    score = text_score({"vowels": reward}, decode=tokenizer.decode, prompts=prompts, rows=[{}] * len(prompts))
    stage = grpo(model, optim.adamw(3e-3), score=score, rewards=("vowels",), samples=16, sampling=Sampling(8))
    state = stage.init(random.key(0))  # the module's initial weights
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
