"""Models like Llama 3 and Qwen3, written by transformers, go through sft, grpo, chat, evaluate and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipes.chat.chat import encode_chat
from data_pipes.chat.messages import Message
from pure import random
from pure.generation.sampling import Sampling
from stages.cli.generate import generate_texts
from stages.cli.main import main
from stages.models import language_model
from stages.models.chat_template import stop_ids, template_of
from tests.outside import written
from tests.outside.special_tokens import CHATML, HEADER
from tests.stages.small_stages import flags, write_rows

BEGIN = "<|begin_of_text|>"
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MODELS: dict[str, dict[str, Any]] = {
    "llama3": {
        "bos_token": BEGIN, "eos_token": "<|eot_id|>", "chat_template": HEADER, "before": (BEGIN,),
        "config": {"eos_token_id": [1, 3]}, "generation": {"eos_token_id": [1, 3, 4], "bos_token_id": 0},
    },
    "qwen3": {
        "tokens": QWEN, "kind": "qwen3", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "chat_template": CHATML, "config": {"eos_token_id": 2}, "generation": {"eos_token_id": [2, 0], "top_k": 20},
    },
}  # fmt: skip
STOP_IDS = {"llama3": {1, 3, 4}, "qwen3": {0, 2}}
CHAT = [
    {"role": "user", "content": "12 + 34?"},
    {"role": "assistant", "content": "46."},
    {"role": "user", "content": "What is it?"},
]


def _assert_equals_transformers(folder: Path, name: str) -> None:
    """Ours and transformers' chat ids, stop ids and greedy text of the model in `folder` are equal."""
    base, theirs = language_model.load(folder), written.tokenizer(folder)
    template = template_of(None, base)
    messages = [Message(turn["role"], turn["content"]) for turn in CHAT]
    ours = encode_chat(template, base.tokenizer, messages, add_generation_prompt=True).tokens.tolist()
    assert ours == theirs.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert ours.count(0) == (1 if name == "llama3" else 0)
    assert set(stop_ids(base, template)) == STOP_IDS[name]
    special = [token.content for token in base.tokenizer.spec.added_tokens]
    text = generate_texts(base, ["What is"], Sampling(12, temperature=0.0), key=random.key(0))[0]
    for token in special:
        text = text.replace(token, "")
    assert text == written.greedy(folder, "What is")
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == MODELS[name]["generation"]


@pytest.mark.parametrize("name", MODELS)
def test_a_published_model_is_equal_in_transformers_after_sft_grpo_and_export(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written.model(tmp_path / "model", **MODELS[name])
    write_rows(tmp_path)
    _assert_equals_transformers(tmp_path / "model", name)
    assert main(["sft", *flags(tmp_path, "sft", max_steps=2)]) == 0
    sft = tmp_path / "sft" / "final_model"
    _assert_equals_transformers(sft, name)
    assert main(["grpo", *flags(tmp_path, "grpo", max_steps=2, model_path=sft)]) == 0
    grpo = tmp_path / "grpo" / "final_model"
    _assert_equals_transformers(grpo, name)
    capsys.readouterr()
    common = ["--device", "cpu", "--max_new_tokens", "8"]
    assert main(["chat", "--model_path", str(grpo), "--prompt", "Hi", "--prompt", "And?", *common]) == 0
    assert not any(
        token.content in capsys.readouterr().out
        for token in language_model.load(grpo).tokenizer.spec.added_tokens
    )
    evaluate = [
        "evaluate",
        "--model_path",
        str(grpo),
        "--task",
        "exact_match",
        "--limit",
        "4",
        "--no_compile",
        "--output_dir",
        str(tmp_path / "eval"),
    ]
    assert main([*evaluate, *common]) == 0
    assert main(["export", "--model_path", str(grpo), "--output_dir", str(tmp_path / "out")]) == 0
    _assert_equals_transformers(tmp_path / "out", name)


@pytest.mark.parametrize("lora", [{}, {"lora": "balanced"}])
def test_a_run_is_saved_with_the_template_it_was_trained_with(lora: dict[str, Any], tmp_path: Path) -> None:
    """Also with adapters; the template is not the model's own, and its turns end with another token."""
    written.model(tmp_path / "model", **MODELS["llama3"])
    write_rows(tmp_path)
    source = HEADER.replace("<|eot_id|>", "<|pad|>")
    (tmp_path / "t.jinja").write_text(source)
    changes = {"max_steps": 2, "chat_template": tmp_path / "t.jinja", **lora}
    assert main(["sft", *flags(tmp_path, "sft", **changes)]) == 0
    folder = tmp_path / "sft" / "final_model"
    assert written.tokenizer(folder).chat_template == source
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [1, 3, 4, 5]
    base = language_model.load(folder)
    assert base.chat_template == source
    assert set(stop_ids(base)) == {1, 3, 4, 5}
