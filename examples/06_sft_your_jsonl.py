"""Fine-tuning on your own JSONL: rows to messages, messages to tokens and loss masks, then the fold.

    python examples/06_sft_your_jsonl.py [rows.jsonl] [steps]

Rows may be Alpaca's, ShareGPT's, messages, prompt and completion, or question and answer. Without a file, a
small one of additions is written first. The model is new and small; `intro2llm sft --model_path ...` starts
from a real one.
"""

import functools
import json
import sys
import tempfile
from pathlib import Path

from data_pipes.chat.chat import chat_template, encode_chat, encode_completions
from data_pipes.rows.records import read_conversations
from data_pipes.sft import fullness, sft_pipe
from data_pipes.source.path import rows
from data_pipes.tokenizer.trainer import train
from pure import optim, random
from pure.config import ModelConfig
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.nn.transformer import transformer
from stages.sft import sft

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_additions(folder: str) -> Path:
    """Writes a file of additions, to use in place of yours."""
    path = Path(folder) / "additions.jsonl"
    lines = [
        {"instruction": f"{a} + {b}", "input": "", "output": str(a + b)} for a in range(10) for b in range(10)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def main(path: str = "", steps: int = 150) -> float:
    """Trains, prints an answer to the first question, returns the last loss (nats an assistant token)."""
    with tempfile.TemporaryDirectory() as folder:
        chats = list(read_conversations(rows(path or write_additions(folder))))
    tokenizer = train((m.content for chat in chats for m in chat.messages), 300, special_tokens=CONTROLS)
    template = chat_template()
    pairs = [(chat.messages[: chat.prompt], chat.messages[chat.prompt :]) for chat in chats]
    examples = encode_completions(template, tokenizer, pairs, contexts=[chat.context for chat in chats])
    pipe = sft_pipe(examples, batch_size=8, length=96, key=0, epochs=8 * steps)[:steps]
    print(f"{len(chats)} conversations in {pipe.rows} rows, {fullness(pipe):.0%} full")

    config = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformer(
        ModelConfig(vocab_size=320, num_hidden_layers=2, max_position_embeddings=128, **config)
    )
    stage = sft(model, optim.adamw(3e-3))
    state = functools.reduce(stage.step, pipe, stage.init(random.key(0)))
    print(f"loss {state.metrics['loss']:.3f} on {int(state.metrics['tokens'])} assistant tokens")

    question = chats[0].messages[:1]
    ids = encode_chat(template, tokenizer, question, add_generation_prompt=True).tokens
    end = tokenizer.encode("<|im_end|>", special="all")
    greedy = Sampling(max_new_tokens=8, temperature=0.0, stop_tokens=tuple(end))
    generated = generate(model, state.params, [ids.tolist()], greedy, key=random.key(1))
    print(f"{question[0].content} -> {tokenizer.decode(generated.tokens[0], skip_special=True)}")
    return float(state.metrics["loss"])


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
