"""A small model of ours, the same in transformers, and PEFT's adapters with the same numbers."""

from __future__ import annotations

import re
from typing import Any

import peft
import torch
import transformers

from pure import random, tree
from pure.adapt.lora_config import LoRAConfig
from pure.config import ModelConfig
from pure.interop import hf
from pure.nn.transformer import transformer
from pure.types import Model, Tree

CONFIG = ModelConfig(
    vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
)  # fmt: skip
NAMES = {
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}


def small() -> tuple[Model, Tree]:
    model = transformer(CONFIG)
    return model, model.init(random.key(1))


def tokens(rows: int = 2) -> torch.Tensor:
    return random.randint(random.key(9), (rows, 12), 0, 61).long()


def moved(adapters: Tree, seed: int = 5) -> Tree:
    """Adapters whose every number was changed, so that B is not 0."""
    return tree.map_with_path(
        lambda path, x: x + 0.1 * random.normal(random.fold_in(random.key(seed), len(path)), tuple(x.shape)),
        adapters,
    )


def hugging_face(params: Tree) -> transformers.PreTrainedModel:
    fields = hf.to_hf_config(CONFIG)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields)).eval()
    lacking = theirs.load_state_dict(hf.to_weights(params), strict=False)
    assert not lacking.unexpected_keys
    theirs.tie_weights()
    return theirs


def peft_model(params: Tree, adapters: Tree, config: LoRAConfig, **options: Any) -> peft.PeftModel:
    """PEFT's LoRA over the same model, holding the same adapters."""
    made = peft.get_peft_model(
        hugging_face(params),
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=[NAMES[t] for t in config.targets],
            use_rslora=config.use_rslora,
            use_dora=config.use_dora,
            lora_dropout=0.0,
            **options,
        ),
    )
    values = dict(zip(tree.paths(adapters), tree.leaves(adapters), strict=True))
    kinds = {
        "a": r"lora_A.default.weight",
        "b": r"lora_B.default.weight",
        "magnitude": r"lora_magnitude_vector.*",
    }
    filled = 0
    for path, value in values.items():
        _, layer, part, matrix, kind = path.split("/")
        home = {"attention": "self_attn", "feedforward": "mlp"}[part]
        expected = re.compile(rf".*layers\.{layer}\.{home}\.{NAMES[matrix]}\.{kinds[kind]}$")
        (found,) = [p for name, p in made.named_parameters() if expected.match(name)]
        found.data.copy_(value)
        filled += 1
    assert filled == sum("lora_" in name for name, _ in made.named_parameters())
    return made.eval()
