"""`language_model.save` writes folders that load here and in transformers, completely or not at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from data_pipes import tokenizer as tokenizers
from pure import random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from stages.models import language_model, weights_file
from stages.models.language_model import Pretrained

TEXT = ["def add(left, right): return left + right  # naïve café, 123"] * 3
CHAT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]


def make_model(**changes: Any) -> Pretrained:
    tokenizer = tokenizers.train(TEXT, 290)
    special = tokenizers.special_tokens(tokenizer)
    fields = {
        "vocab_size": 290,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "eos_token_id": special["<|endoftext|>"],
        "pad_token_id": special["<|pad|>"],
    }
    model = transformer(ModelConfig(**(fields | changes)))
    return Pretrained(model, model.init(random.key(0)), tokenizer)


def special_ids_of(pretrained: Pretrained) -> dict[str, int]:
    return tokenizers.special_tokens(pretrained.tokenizer)


@pytest.mark.parametrize("changes", [{}, {"use_rms_norm": False}, {"use_rope": False, "use_swiglu": False}])
def test_a_saved_model_loads_with_equal_config_weights_and_tokenizer(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    pretrained = make_model(**changes)
    loaded = language_model.load(language_model.save(tmp_path / "model", pretrained))
    assert loaded.model.config == pretrained.model.config
    assert tree.paths(loaded.params) == tree.paths(pretrained.params)
    assert all(
        torch.equal(a, b)
        for a, b in zip(tree.leaves(loaded.params), tree.leaves(pretrained.params), strict=True)
    )
    assert loaded.tokenizer.spec == pretrained.tokenizer.spec


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "tie_word_embeddings": False}])
def test_transformers_loads_the_model_tokenizer_and_generation_config(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    pretrained = make_model(**changes)
    language_model.save(tmp_path / "model", pretrained)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = pretrained.tokenizer.encode(TEXT[0])
    assert tokenizer(TEXT[0])["input_ids"] == ids
    assert tokenizer.decode(ids) == TEXT[0]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|pad|>")
    assert tokenizer.model_max_length == 32
    with torch.no_grad():
        expected = theirs(torch.tensor([ids[:30]])).logits
    ours = pretrained.model.forward(pretrained.params, torch.tensor([ids[:30]]))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    assert theirs.generation_config.eos_token_id == [
        pretrained.model.config.eos_token_id,
        special_ids_of(pretrained)["<|im_end|>"],
    ]
    assert theirs.generation_config.pad_token_id == pretrained.model.config.pad_token_id


def test_the_saved_chat_template_is_chatml(tmp_path: Path) -> None:
    pretrained = make_model()
    language_model.save(tmp_path / "model", pretrained)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    text = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer.apply_chat_template(CHAT, return_dict=False)
    special = tokenizers.special_tokens(pretrained.tokenizer)
    assert [i for i in ids if i in special.values()] == [special["<|im_start|>"], special["<|im_end|>"]] * 2


def test_a_tokenizer_without_chat_tokens_gets_no_template(tmp_path: Path) -> None:
    pretrained = make_model()
    plain = tokenizers.train(TEXT, 290, special_tokens=["<|endoftext|>"])
    language_model.save(tmp_path / "model", pretrained._replace(tokenizer=plain))
    assert not (tmp_path / "model" / "chat_template.jinja").exists()


def test_bfloat16_weights_stay_bfloat16_unless_a_dtype_is_given(tmp_path: Path) -> None:
    pretrained = make_model()
    pretrained = pretrained._replace(params=tree.cast(pretrained.params, torch.bfloat16))
    folder = language_model.save(tmp_path / "model", pretrained)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert {x.dtype for x in tree.leaves(language_model.load(folder).params)} == {torch.bfloat16}
    assert {x.dtype for x in tree.leaves(language_model.load(folder, dtype=torch.float32).params)} == {
        torch.float32
    }


def test_weights_are_memory_mapped_and_changes_are_not_written(tmp_path: Path) -> None:
    folder = language_model.save(tmp_path / "model", make_model())
    before = (folder / "model.safetensors").read_bytes()
    loaded = language_model.load(folder)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(folder / "model.safetensors") in maps.read_text()
    tree.leaves(loaded.params)[0].zero_()
    assert (folder / "model.safetensors").read_bytes() == before


MEMORY_OF_LOAD = """
import re, sys, torch
from pure import tree
from stages.models import language_model, weights_file
def memory(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+)", open("/proc/self/status").read())[1])
language_model.load(sys.argv[2])  # a small model, so that the libraries' own memory is not counted
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
found = language_model.load(sys.argv[1], dtype=torch.float32)
print((memory("VmHWM") - before) / tree.nbytes(found.params))
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak memory of a process"
)
def test_loading_needs_less_than_1_2_times_the_memory_of_the_weights(tmp_path: Path) -> None:
    large = make_model(hidden_size=512, intermediate_size=2048, num_hidden_layers=6)
    large = large._replace(params=tree.cast(large.params, torch.bfloat16))
    folders = [
        language_model.save(tmp_path / "large", large),
        language_model.save(tmp_path / "small", make_model()),
    ]
    command = [sys.executable, "-c", MEMORY_OF_LOAD, *map(str, folders)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1.2


def test_shards_written_by_transformers_load(tmp_path: Path) -> None:
    pretrained = make_model()
    folder = language_model.save(tmp_path / "model", pretrained)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    tokenizers.save(pretrained.tokenizer, tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    loaded = language_model.load(tmp_path / "shards")
    assert all(
        torch.equal(a, b)
        for a, b in zip(tree.leaves(loaded.params), tree.leaves(pretrained.params), strict=True)
    )


def test_a_model_above_shard_bytes_is_written_in_shards_that_transformers_loads(tmp_path: Path) -> None:
    pretrained = make_model()
    folder = language_model.save(tmp_path / "model", pretrained, shard_bytes=10_000)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert all(path.stat().st_size < 12_000 for path in shards[1:])  # the embedding alone is larger than one
    assert not (folder / "model.safetensors").exists()
    loaded = language_model.load(folder)
    assert all(
        torch.equal(a, b)
        for a, b in zip(tree.leaves(loaded.params), tree.leaves(pretrained.params), strict=True)
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(
        theirs(tokens).logits, pretrained.model.forward(pretrained.params, tokens), rtol=1e-4, atol=1e-4
    )
    unsharded = language_model.save(folder, pretrained)
    assert [path.name for path in unsharded.glob("*.safetensors*")] == ["model.safetensors"]


def test_the_folder_of_a_run_loads_its_final_model(tmp_path: Path) -> None:
    language_model.save(tmp_path / "run" / "final_model", make_model())
    assert language_model.load(tmp_path / "run").model.config == make_model().model.config
    assert language_model.read_config(tmp_path / "run") == make_model().model.config


def test_a_failed_save_leaves_the_old_folder_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = language_model.save(tmp_path / "model", make_model())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def raise_enospc(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(weights_file, "write", raise_enospc)
        with pytest.raises(OSError, match=r"cannot write .*model: No space left on device; make room there"):
            language_model.save(tmp_path / "model", make_model(qk_norm=True))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    language_model.save(tmp_path / "model", make_model(qk_norm=True))
    assert language_model.load(folder).model.config.qk_norm
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_missing_and_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing; expected a run's folder"):
        language_model.load(tmp_path)
    folder = language_model.save(tmp_path / "model", make_model())
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a sound safetensors file"):
        language_model.load(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        language_model.load(folder)
    weights.write_bytes(data)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON, line 1"):
        language_model.load(folder)


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(tmp_path: Path) -> None:
    larger = tokenizers.train([*TEXT, "another text altogether"], 300)
    refused = make_model()._replace(tokenizer=larger)
    with pytest.raises(ValueError, match="the tokenizer has 295 ids, the embedding 290 rows"):
        language_model.save(tmp_path / "model", refused)
    with pytest.raises(ValueError, match="the tokenizer has 295 ids, the embedding 290 rows"):
        language_model.save_for_jax(tmp_path / "model", refused, "msgpack")
    assert not (tmp_path / "model").exists()
    tokenizers.save(larger, language_model.save(tmp_path / "model", make_model()))
    with pytest.raises(ValueError, match=r"model: the tokenizer has 295 ids, the embedding 290 rows"):
        language_model.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: make_model(hidden_size=32).params, r"expected shape .* got "),
        (lambda params: params | {"layers": params["layers"][:1]}, "missing model.layers.1"),
        (lambda params: {"model": params}, "model/embed.*: no weight of a language model"),
        (
            lambda params: {"layers": [{"attention": {"q": {"a": torch.ones(1, 1)}}}]},
            "layers/0/attention/q/a: no",
        ),
    ],
)
def test_params_that_are_not_those_of_the_model_are_not_written(
    change: Any, message: str, tmp_path: Path
) -> None:
    pretrained = make_model()
    with pytest.raises(ValueError, match=message):
        language_model.save(tmp_path / "model", pretrained._replace(params=change(pretrained.params)))
    assert not (tmp_path / "model").exists()


def test_weights_of_another_shape_are_refused_with_the_folder(tmp_path: Path) -> None:
    one, other = (
        language_model.save(tmp_path / name, make_model(hidden_size=size))
        for name, size in (("a", 16), ("b", 32))
    )
    (one / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"a: model\.\S+: expected shape .* got .*another configuration"):
        language_model.load(one)
