"""GGUF files that are written here are read back with equal weights, ids, tokens and templates, or refused.

The fields are those of `pure.interop.gguf_fields` and `data_pipes.tokenizer.gguf_fields`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf as gguf_package
import pytest
import torch
import transformers
from torch import Tensor

from data_pipes import tokenizer as tokenizers
from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.spec import AddedToken, vocabulary_size
from pure import random, tree
from pure.config import from_dict
from pure.interop import hf
from pure.nn.transformer import transformer
from stages.cli.main import main
from stages.models import gguf, gguf_writer, language_model
from stages.models.gguf_writer import Kind
from stages.models.language_model import Pretrained
from stages.models.special_tokens import SpecialTokens
from tests.stages.models.test_gguf import SMALL, tokenizer

WIDE = SMALL | {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 271, "eos_token_id": 0}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "llama, biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4},
    "llama 3's positions": {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "head_dim": 32},
    "linear positions": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "qwen2, yarn": {"attention_bias": "qkv", "rope_scaling": YARN},
    "qwen3": {"qk_norm": True, "head_dim": 8, "tie_word_embeddings": False},
}
TEXT = "Straße  12 <|endoftext|> äöü\n\tx don't 2026 ÀŒ 漢字 🙂   "


def make(template: str | None = "{{ messages }}", **changes: Any) -> Pretrained:
    config = from_dict(WIDE | changes)
    model = transformer(config)
    params = tree.map(lambda x: x + 0.1 if x.ndim == 1 else x, model.init(random.key(1)))
    return Pretrained(model, params, tokenizer(), template)


def stored(x: Tensor, kind: Kind) -> Tensor:
    """The numbers of a weight after it was stored."""
    if kind == "f32" or x.ndim == 1:
        return x
    if kind != "q8_0":
        return x.to({"f16": torch.float16, "bf16": torch.bfloat16}[kind]).float()
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    d = blocks.abs().amax(-1, keepdim=True) / 127
    integers = blocks.sign() * ((blocks * (1 / d)).abs() + 0.5).floor()
    return (integers * d.half().float()).reshape(x.shape)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_written_file_is_read_with_equal_weights(name: str, kind: Kind, tmp_path: Path) -> None:
    pretrained = make(**ARCHITECTURES[name])
    found = language_model.load(gguf_writer.write(tmp_path / "out", pretrained, kind))
    config = pretrained.model.config
    assert found.model.config == dataclasses.replace(config, initializer_range=0.02)
    pairs = zip(
        tree.paths(found.params), tree.leaves(found.params), tree.leaves(pretrained.params), strict=True
    )
    for path, x, y in pairs:
        assert torch.equal(x, stored(y, kind)), path


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_bias": "qkv"}, {"qk_norm": True, "head_dim": 128, "tie_word_embeddings": False}],
)
def test_transformers_reads_the_file_with_equal_logits(changes: dict[str, Any], tmp_path: Path) -> None:
    path = gguf_writer.write(tmp_path / "out", make(**changes), "q8_0")
    ours = language_model.load(path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    tokens = torch.arange(3, 43)[None]
    with torch.no_grad():
        expected = theirs(tokens).logits
    torch.testing.assert_close(ours.model.forward(ours.params, tokens), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    pretrained = make()
    pretrained = pretrained._replace(params=tree.cast(pretrained.params, dtype))
    kind: Kind = "bf16" if dtype == torch.bfloat16 else "f16"
    found = language_model.load(gguf_writer.write(tmp_path / "out", pretrained, kind), dtype=dtype)
    for x, y in zip(tree.leaves(found.params), tree.leaves(pretrained.params), strict=True):
        assert torch.equal(x, y)


def test_the_gguf_package_reads_the_types_and_fields(tmp_path: Path) -> None:
    path = gguf_writer.write(tmp_path / "out", make(qk_norm=True), "q8_0")
    reader = gguf_package.GGUFReader(path)
    kinds = {x.name: x.tensor_type.name for x in reader.tensors}
    assert kinds["token_embd.weight"] == kinds["blk.1.ffn_down.weight"] == "Q8_0"
    assert {kind for name, kind in kinds.items() if "norm" in name} == {"F32"}
    assert reader.fields["general.architecture"].contents() == "qwen3"
    assert reader.fields["general.file_type"].contents() == 7
    assert reader.fields["tokenizer.ggml.pre"].contents() == "deepseek-r1-qwen"
    assert reader.fields["tokenizer.ggml.tokens"].contents()[-3:] == ["[PAD268]", "[PAD269]", "[PAD270]"]


@pytest.mark.parametrize("pattern", ["qwen2", "gpt2", "smollm2", "llama3"])
@pytest.mark.parametrize("nfc", [False, True])
def test_ids_are_equal_after_a_round_trip(pattern: str, nfc: bool, tmp_path: Path) -> None:
    trained = tokenizers.train(
        ["low lower lowest Straße don't 12 2026"] * 4,
        268,
        special_tokens=["<|endoftext|>"],
        pattern=pattern,
        nfc=nfc,
    )
    pretrained = make()._replace(tokenizer=trained)
    if nfc and pattern != "qwen2":
        with pytest.raises(ValueError, match=f"tokenizer: pattern '{pattern}' cannot be written as GGUF"):
            gguf_writer.write(tmp_path / "out", pretrained, "f16")
        assert not (tmp_path / "out").exists()
        return
    found = language_model.load(gguf_writer.write(tmp_path / "out", pretrained, "f16")).tokenizer
    assert vocabulary_size(found) == vocabulary_size(trained)
    text = f"{TEXT} [PAD270]"
    for special in ("none", "all"):
        assert found.encode(text, special=special) == trained.encode(text, special=special)


def test_special_tokens_and_templates_are_kept(tmp_path: Path) -> None:
    spec = tokenizers.train(
        ["low lower lowest"] * 3, 268, special_tokens=["<s>", "</s>", "<end>", "<pad>"]
    ).spec
    ids = {token.content: token.id for token in spec.added_tokens}
    named = (("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>"))
    pretrained = make()._replace(
        tokenizer=from_spec(dataclasses.replace(spec, prefix=(ids["<s>"],))),
        special=SpecialTokens(named, (), {"eos_token_id": [ids["<end>"], ids["</s>"]]}, {}),
        other_templates=(("tool_use", "{{ tools }}"),),
    )
    found = language_model.load(gguf_writer.write(tmp_path / "out", pretrained, "f16"))
    assert found.tokenizer.spec.prefix == (ids["<s>"],)
    assert dict(found.special.named or ()) == dict(named)
    assert found.special.generation is not None
    assert sorted(found.special.generation["eos_token_id"]) == sorted([ids["<end>"], ids["</s>"]])
    assert found.chat_template == "{{ messages }}"
    assert found.other_templates == (("tool_use", "{{ tools }}"),)


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"use_rms_norm": False}, "use_rms_norm False cannot be written as GGUF"),
    ({"use_rope": False}, "use_rope False"),
    ({"use_swiglu": False}, "use_swiglu False"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu' .* have only 'silu'"),
    ({"qk_norm": True, "mlp_bias": True}, "mlp_bias True .* together with qk_norm"),
    ({"qk_norm": True, "attention_bias": "qkv"}, "attention_bias 'qkv' .* together with qk_norm"),
    ({"qk_norm": True, "attention_bias": True}, "attention_bias True .* together with qk_norm"),
    ({"attention_bias": "qkv", "head_dim": 8}, "head_dim 8 .* hidden_size / num_attention_heads"),
    ({"rope_scaling": LLAMA3, "qk_norm": True}, "rope_scaling.rope_type 'llama3' .* qwen3 has no divisors"),
    ({"rope_scaling": LLAMA3 | {"low_freq_factor": 2.0}}, "rope_scaling.low_freq_factor 2.0"),
    ({"rope_scaling": YARN | {"beta_fast": 16.0}}, "rope_scaling.beta_fast 16.0"),
    ({"rope_scaling": YARN | {"attention_factor": 1.0}}, "rope_scaling.attention_factor 1.0"),
)


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_a_configuration_that_llama_cpp_lacks_is_refused_by_its_field(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        gguf_writer.write(tmp_path / "out", make(**changes), "f16")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "character"}, "tokenizer: kind 'character'"),
        ({"prefix_space": True, "pattern": "gpt2"}, "tokenizer: prefix_space True"),
        ({"suffix": (7,)}, r"tokenizer: suffix \(7,\)"),
        (
            {"unk_token": "<|endoftext|>", "merges": (), "vocab": ("<|endoftext|>", "a")},
            "tokenizer: unk_token",
        ),
        ({"prefix": (3, 4)}, r"tokenizer: prefix \(3, 4\)"),
        (
            {"pattern": r"\S+|\s+"},
            "tokenizer: pattern .* llama.cpp has names for gpt2, smollm2, llama3, qwen2",
        ),
    ],
)
def test_a_tokenizer_that_llama_cpp_lacks_is_refused_by_its_field(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    spec = dataclasses.replace(tokenizer().spec, **changes)
    with pytest.raises(ValueError, match=message):
        gguf_writer.write(tmp_path / "out", make()._replace(tokenizer=from_spec(spec)), "f16")


def test_weights_that_do_not_fit_the_type_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"token_embd.weight: rows of 24 numbers cannot be written as q8_0"):
        gguf_writer.write(tmp_path / "out", make(hidden_size=24), "q8_0")
    large = make()
    large.params["layers"][1]["feedforward"]["up"][3, 5] = 1e5
    with pytest.raises(
        ValueError, match=r"blk.1.ffn_up.weight: numbers up to 1e\+05 cannot be written as f16"
    ):
        gguf_writer.write(tmp_path / "out", large, "f16")
    assert not list(tmp_path.iterdir())


def test_two_ids_with_one_text_are_refused(tmp_path: Path) -> None:
    """llama.cpp aborts on them; here a token has the text of a padding row."""
    spec = tokenizer().spec
    added = (*spec.added_tokens, AddedToken("[PAD269]", vocabulary_size(tokenizer()), special=False))
    twin = make()._replace(tokenizer=from_spec(dataclasses.replace(spec, added_tokens=added)))
    with pytest.raises(ValueError, match=r"tokenizer: id 269 '\[PAD269\]' .* id 261 has the same text"):
        gguf_writer.write(tmp_path / "out", twin, "f16")


def test_a_special_token_that_is_one_word_is_refused_where_merges_are_ignored(tmp_path: Path) -> None:
    """llama.cpp makes the plain text "###" that token, whatever `special` says."""
    for pattern, refused in (("llama3", True), ("qwen2", False)):
        trained = tokenizers.train(["low"] * 3, 262, special_tokens=["<|endoftext|>", "###"], pattern=pattern)
        marked = make()._replace(tokenizer=trained)
        if refused:
            with pytest.raises(
                ValueError, match="special token '###' cannot be written as GGUF: it is one word of"
            ):
                gguf_writer.write(tmp_path / "out", marked, "f16")
        else:
            assert gguf_writer.write(tmp_path / "out", marked, "f16").is_file()


def test_a_model_without_an_end_is_refused(tmp_path: Path) -> None:
    """llama.cpp would end at id 11."""
    with pytest.raises(
        ValueError, match=r"without an end .* llama.cpp then takes id 11 .* name eos_token in"
    ):
        gguf_writer.write(tmp_path / "out", make(eos_token_id=None), "f16")


def test_a_template_with_a_bos_token_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    """llama.cpp would write the text of id 11."""
    template = "{{ bos_token }}{{ messages }}"
    with pytest.raises(ValueError, match=r"names bos_token, which the model lacks, .* takes id 11"):
        gguf_writer.write(tmp_path / "out", make(template), "f16")
    found = language_model.load(gguf_writer.write(tmp_path / "out", make(template, bos_token_id=0), "f16"))
    assert found.chat_template == template


def test_ends_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    many = SpecialTokens((), (), {"eos_token_id": [1, 2, 3, 4]}, {})
    with pytest.raises(ValueError, match=r"eos_token_id \[1, 2, 3, 4\] .* room for 3"):
        gguf_writer.write(tmp_path / "out", make()._replace(special=many), "f16")
    other = SpecialTokens((("eos_token", "<|endoftext|>"),), (), {"eos_token_id": 5}, {})
    with pytest.raises(ValueError, match=r"eos_token '<\|endoftext\|>' \(id 0\) cannot be written"):
        gguf_writer.write(tmp_path / "out", make()._replace(special=other), "f16")


def test_export_writes_the_file_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    language_model.save(tmp_path / "model", make())
    command = ["export", "--model_path", str(tmp_path / "model"), "--format", "gguf", "--output_dir"]
    assert main([*command, str(tmp_path / "out"), "--gguf_type", "q8_0"]) == 0
    assert "model.gguf: " in (out := capsys.readouterr().out)
    assert "parameters in q8_0" in out
    assert gguf.read_config(tmp_path / "out" / "model.gguf").hidden_size == 64
    assert hf.model_type(gguf.read_config(tmp_path / "out" / "model.gguf")) == "llama"
    for flags, message in (
        (["--dtype", "bfloat16"], "a GGUF file has types of its own; take --gguf_type"),
        (["--state"], "a training state is no part of a GGUF file"),
    ):
        assert main([*command, str(tmp_path / "other"), *flags]) == 2
        assert message in capsys.readouterr().err
    assert main([*command[:3], "--gguf_type", "f16", "--output_dir", str(tmp_path / "other")]) == 2
    assert "--gguf_type f16 needs --format gguf, got safetensors" in capsys.readouterr().err
