"""Folders of adapters that PEFT writes: our logits must equal those of PEFT's own loading.

They are read by `peft_config`, `peft_targets`, `peft_weights` and `peft_apply`.
"""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from data_pipes import tokenizer as tokenizers
from tests.outside.form import Form

VOCABULARY = 272
TOKENS = torch.arange(3, 15)[None]
Change = Callable[[Path], object]


@cache
def _tokenizer() -> Any:
    return tokenizers.train(["a b c d"], 262)


@cache
def _random_model(kind: str, tied: bool) -> Any:
    """A small random model of transformers; biases and norms are random too."""
    import transformers

    config = transformers.CONFIG_MAPPING[kind](
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for x in model.parameters():
            x.data += 0.1 * torch.randn_like(x) if x.ndim == 1 else 0
    return model


def _base(folder: Path, kind: str = "llama", tied: bool = False) -> Any:
    """Write the model and a tokenizer into folder/base, and return the model."""
    model = copy.deepcopy(_random_model(kind, tied))
    model.save_pretrained(folder / "base")
    tokenizers.save(_tokenizer(), folder / "base")
    model.name_or_path = model.config._name_or_path = str(folder / "base")
    return model


def _perturb_trainable(model: Any, size: float = 0.3) -> Any:
    """Add noise to the trainable parameters, so that B is not 0."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for x in model.parameters():
            if x.requires_grad:
                x.data += size * torch.randn_like(x)
    return model.eval()


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def _config(**options: Any) -> Any:
    import peft

    fields = {"r": 2, "lora_alpha": 3, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}
    return peft.LoraConfig(**(fields | options))


def _write_adapters(
    folder: Path,
    *,
    kind: str = "llama",
    tied: bool = False,
    rows: int = 0,
    change: Change | None = None,
    **options: Any,
) -> torch.Tensor:
    """Write adapters with PEFT, and return the logits of the model that PEFT loads from the folder."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _base(folder, kind, tied)
        if rows:
            model.resize_token_embeddings(rows)
        _perturb_trainable(peft.get_peft_model(model, _config(**options))).save_pretrained(folder / "adapter")
        if change is not None:
            change(folder / "adapter")
        reloaded = copy.deepcopy(_random_model(kind, tied))
        if rows:
            reloaded.resize_token_embeddings(rows)
        return _logits(peft.PeftModel.from_pretrained(reloaded, str(folder / "adapter")))


def _ours(folder: Path) -> torch.Tensor:
    from stages.models import language_model

    found = language_model.load(folder / "adapter")
    return found.model.forward(found.params, TOKENS)


def _fields(**changes: Any) -> Change:
    """Change fields of adapter_config.json; `...` removes one."""

    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        fields = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({name: value for name, value in fields.items() if value is not ...}))

    return change


def _rename_weights(rename: Callable[[str], str], dtype: torch.dtype | None = None) -> Change:
    """Change the names, or the dtype, of the tensors."""

    def change(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file({rename(name): x.to(dtype or x.dtype) for name, x in load_file(file).items()}, file)

    return change


def _change_embedding_copy(folder: Path) -> None:
    """Change the second copy of the embedding, so that the file contradicts itself."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.embed_tokens.modules_to_save.weight"] += 1
    save_file(tensors, file)


def _write_converted_pissa(folder: Path) -> torch.Tensor:
    """Write PiSSA adapters that PEFT converts to plain LoRA on saving."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(_base(folder), _config(init_lora_weights="pissa_niter_4"))
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(folder / "start")
        model.peft_config["default"].init_lora_weights = "pissa_niter_4"
        _perturb_trainable(model).save_pretrained(
            folder / "adapter", path_initial_model_for_weight_conversion=folder / "start"
        )
        shutil.rmtree(folder / "start")
    return _logits(
        peft.PeftModel.from_pretrained(copy.deepcopy(_random_model("llama", False)), str(folder / "adapter"))
    )


def _pickle_weights(folder: Path) -> None:
    """Replace the weights by a pickle, as PEFT wrote before safetensors."""
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def _write_adapters_over_adapters(folder: Path) -> None:
    """Write adapters whose base is a folder of adapters, as PEFT does for a merged model."""
    import peft

    _write_adapters(folder)
    shutil.move(folder / "adapter", folder / "first")
    model = copy.deepcopy(_random_model("llama", False))
    _perturb_trainable(peft.get_peft_model(model, _config())).save_pretrained(folder / "adapter")
    _fields(base_model_name_or_path=str(folder / "first"))(folder / "adapter")


def _right(name: str, **options: Any) -> Form:
    """Adapters that we read as PEFT does."""
    return Form("adapter", name, "peft", partial(_write_adapters, **options), _ours, tolerance=1e-4)


def _wrong(name: str, message: str, **options: Any) -> Form:
    """Adapters that PEFT reads and that we refuse."""
    return Form(
        "adapter", name, "peft", lambda folder: _write_adapters(folder, **options) * 0, _ours, refused=message
    )


def _changed(name: str, message: str, change: Change) -> Form:
    """Adapters changed after saving, which we refuse; PEFT ignores the change or fails too."""

    def theirs(folder: Path) -> None:
        _write_adapters(folder)
        change(folder / "adapter")

    return Form("adapter", name, "peft", theirs, _ours, refused=message)


def _method(name: str, **options: Any) -> Form:
    """A method of PEFT other than LoRA, which we refuse."""

    def theirs(folder: Path) -> None:
        import peft

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = getattr(peft, name)(task_type="CAUSAL_LM", **options)
            peft.get_peft_model(_base(folder), config).save_pretrained(folder / "adapter")

    return Form(
        "adapter", name, "peft", theirs, _ours, refused="peft_type '[A-Z0-9_]+' is not supported, only 'LORA'"
    )


EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FORMS = (
    _right("a list of endings"),
    _right("every matrix, Qwen2", kind="qwen2", target_modules=EVERY),
    _right("every matrix, Qwen3", kind="qwen3", target_modules=EVERY),
    _right("all-linear", target_modules="all-linear", change=_fields(target_modules="all-linear")),
    _right("All-Linear over a tied head", tied=True, target_modules="all-linear",
           change=_fields(target_modules="All-Linear")),
    _right("targets are null", change=_fields(target_modules=None)),
    _right("a pattern of names", target_modules=r".*\.1\.(self_attn|mlp)\.(q|up)_proj"),
    _right("a pattern that looks ahead", target_modules=r"^(?!.*layers\.0).*(?:q_proj|down_proj)$"),
    _right("layers by number", layers_to_transform=[1]),
    _right("one layer, and the name of the list", layers_to_transform=0, layers_pattern="layers"),
    _right("excluded by ending", target_modules=EVERY, exclude_modules=["layers.0.mlp.up_proj", "k_proj"]),
    _right("excluded by a pattern", target_modules=EVERY, exclude_modules=r"model\.layers\.0\..*"),
    _right("rank-stabilised", use_rslora=True, r=4),
    _right("ranks and alphas by pattern", rank_pattern={"q_proj": 1, "layers.1.self_attn.v_proj": 5},
           alpha_pattern={r"layers\.\d+\.self_attn\.v.*": 8, "^model.layers.0.self_attn.q_proj": 5}),
    _right("ranks by pattern, rank-stabilised", use_rslora=True, rank_pattern={r".*\.0\..*": 3},
           alpha_pattern={"q_proj": 1}),
    _right("DoRA", use_dora=True, target_modules=EVERY),
    _right("DoRA, rank-stabilised, biases in the base", kind="qwen2", use_dora=True, use_rslora=True),
    _right("random from the start", init_lora_weights=False),
    _right("gaussian", init_lora_weights="gaussian"),
    _right("orthogonal", init_lora_weights="orthogonal"),
    _right("EVA", init_lora_weights="eva"),
    _right("MiCA", init_lora_weights="mica"),
    _right("PiSSA", init_lora_weights="pissa", target_modules=EVERY),
    _right("PiSSA with an own rank, DoRA", init_lora_weights="pissa", rank_pattern={"q_proj": 4}, use_dora=True),
    _right("OLoRA", init_lora_weights="olora", target_modules=EVERY),
    _right("OLoRA, rank-stabilised, over the head", init_lora_weights="olora", use_rslora=True,
           target_modules=["lm_head", "v_proj"]),
    Form("adapter", "fast PiSSA, saved as plain LoRA", "peft", _write_converted_pissa, _ours, tolerance=1e-4),
    _right("trained biases of all", kind="qwen2", bias="all"),
    _right("trained biases of the adapted", kind="qwen2", bias="lora_only"),
    _right("biases of all, where there are none", bias="all"),
    _right("biases of B", kind="qwen2", lora_bias=True),
    _right("head stored whole", modules_to_save=["lm_head"]),
    _right("tied head stored whole", tied=True, modules_to_save=["lm_head"]),
    _right("embedding stored whole", modules_to_save=["embed_tokens"]),
    _right("tied embedding stored whole, the head is the base's", tied=True, modules_to_save=["embed_tokens"]),
    _right("embedding and head stored whole", tied=True, modules_to_save=["embed_tokens", "lm_head"]),
    _right("tied embedding stored whole, tying ensured", tied=True, modules_to_save=["embed_tokens"],
           ensure_weight_tying=True),
    _right("norms and a matrix stored whole", target_modules=EVERY, modules_to_save=["norm", "o_proj"]),
    _right("feed-forward blocks stored whole", target_modules=EVERY, modules_to_save=["mlp"]),
    _right("adapted embedding", target_modules=["embed_tokens", "q_proj"]),
    _right("adapted tied embedding", tied=True, target_modules=["embed_tokens", "q_proj"]),
    _right("adapted tied embedding, tying ensured", tied=True, target_modules=["embed_tokens"],
           ensure_weight_tying=True),
    _right("adapted head", target_modules=["lm_head", "q_proj"], use_dora=True),
    _right("adapted tied head", tied=True, target_modules=["lm_head", "q_proj"]),
    _right("rows of new tokens", trainable_token_indices=[3, 5, 7]),
    _right("rows of new tokens, tied", tied=True, trainable_token_indices={"embed_tokens": [9, 4]}),
    _right("rows of embedding and head", trainable_token_indices={"embed_tokens": [3], "lm_head": [5, 4]}),
    _right("a larger vocabulary", rows=280),
    _right("a larger vocabulary, rows of it trained", rows=280, trainable_token_indices=[275, 4]),
    _right("a larger vocabulary, rows of it trained, tied", tied=True, rows=280, trainable_token_indices=[275, 4]),
    _right("a larger vocabulary, tied", tied=True, rows=280, target_modules=["q_proj"]),
    _right("a larger vocabulary, its embedding adapted, tied", tied=True, rows=280,
           target_modules=["q_proj", "embed_tokens"]),
    _right("a larger vocabulary, embedding and head adapted", rows=280, target_modules=["embed_tokens", "lm_head"]),
    _right("a larger vocabulary, its embedding stored whole", rows=280, modules_to_save=["embed_tokens"]),
    _right("a larger vocabulary, its head stored whole", rows=280, modules_to_save=["lm_head"]),
    _right("a larger vocabulary, both stored whole, tied", tied=True, rows=280,
           modules_to_save=["embed_tokens", "lm_head"]),
    _right("a larger vocabulary, stored whole, tying ensured", tied=True, rows=280,
           modules_to_save=["embed_tokens", "lm_head"], ensure_weight_tying=True),
    _right("rows of a tied embedding, named for the head too", tied=True,
           trainable_token_indices={"embed_tokens": [3, 4], "lm_head": [3, 4]}),
    _right("a smaller vocabulary, tied", tied=True, rows=264),
    _wrong("a larger vocabulary, whose head the file has not", "embedding has 280 rows and its head 272", rows=280,
           target_modules=["embed_tokens"]),
    _wrong("two embeddings in one file", "embed_tokens.modules_to_save.weight: differs from", rows=280,
           modules_to_save=["embed_tokens"], change=_change_embedding_copy),
    _right("fan_in_fan_out, which linear layers ignore", change=_fields(fan_in_fan_out=True)),
    _right("fields of later versions that are off", change=_fields(use_new_thing=False, new_config=None, new_list=[])),
    _right("bookkeeping", lora_dropout=0.1, change=_fields(
        auto_mapping={"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True}, peft_version="0.9.0",
        revision="main", eva_config={"rho": 2.0}, corda_config=None, loftq_config={}, inference_mode=False)),
    _right("few fields, as old versions wrote", change=_fields(
        **dict.fromkeys(("exclude_modules", "lora_bias", "rank_pattern", "use_rslora", "use_dora", "bias",
            "task_type"), ...))),
    _right("names with the adapter's own",
           change=_rename_weights(lambda name: name.replace("lora_A.", "lora_A.default."))),
    _right("weights in bfloat16", change=_rename_weights(str, torch.bfloat16)),
    _wrong("fast PiSSA", "init_lora_weights 'pissa_niter_4' changed the base.*path_initial_model",
           init_lora_weights="pissa_niter_4"),
    _wrong("LoRA-GA", "init_lora_weights 'lora_ga' changed the base", change=_fields(init_lora_weights="lora_ga")),
    _changed("CorDA", "init_lora_weights 'corda' changed the base", _fields(init_lora_weights="corda")),
    _changed("LoftQ", "init_lora_weights 'loftq' changed the base", _fields(init_lora_weights="loftq")),
    _changed("an unknown start", "init_lora_weights 'next' is not known", _fields(init_lora_weights="next")),
    _wrong("biases of B without any in the base",
           "lora_bias: model.layers.0.self_attn.q_proj of the base has no bias", lora_bias=True),
    _wrong("DoRA over the embedding", "use_dora together with target_modules", use_dora=True,
           target_modules=["embed_tokens"]),
    _wrong("repeated layers", "layer_replication .* is not supported", layer_replication=[[0, 2], [1, 2]]),
    _wrong("activated LoRA", "alora_invocation_tokens .* is not supported", alora_invocation_tokens=[1, 2]),
    _wrong("KaSA", "kasa_config .* is not supported", kasa_config={}),
    _wrong("VeLoRA", "velora_config .* is not supported", velora_config={}),
    _wrong("block-diagonal", "use_bdlora .* is not supported", use_bdlora={"target_modules_bd_a": ["q_proj"],
           "target_modules_bd_b": ["v_proj"], "nblocks": 2}),
    _wrong("QALoRA", "use_qalora True is not supported", use_qalora=True),
    _changed("parameters as targets", "target_parameters .* is not supported",
           _fields(target_parameters=["q_proj.weight"])),
    _changed("Megatron", "megatron_config .* is not supported", _fields(megatron_config={"a": 1})),
    _changed("Arrow", "arrow_config .* is not supported", _fields(arrow_config={"top_k": 2})),
    _changed("a field of a later version", "use_new_thing True is not supported", _fields(use_new_thing=True)),
    _changed("another task", "task_type 'SEQ_CLS' is not supported", _fields(task_type="SEQ_CLS")),
    _changed("a revision of the hub", "revision 'abc' of a/b is not the newest", _fields(
        base_model_name_or_path="a/b", revision="abc")),
    _changed("a base that moved", "/gone/base is missing, the base of the adapters in .*write its new path",
             _fields(base_model_name_or_path="/gone/base")),
    _changed("only a pickle", "adapter_model.bin: pickled weights are not read", _pickle_weights),
    _changed("names of another adapter", "missing: .*the file has .*lora_A.other.weight",
           _rename_weights(lambda name: name.replace("A.", "A.other."))),
    _changed("names without a prefix", "expected a name that begins with base_model.model.",
           _rename_weights(lambda name: name[11:])),
    _changed("a layer that the base has not", "missing: .*layers.1.*the file has .*layers.7",
             _rename_weights(lambda name: name.replace("layers.1.", "layers.7."))),
    _changed("an expression that never ends", "target_modules .* matches no matrix",
           _fields(target_modules="(q|.*)*_proj!")),
    _changed("no expression", r"adapter_config.json: target_modules: '\[' is not a regular expression",
           _fields(target_modules="[")),
    Form("adapter", "adapters over adapters", "peft", _write_adapters_over_adapters, _ours,
         refused="holds adapters itself.*intro2llm merge"),
    _method("IA3Config"),
    _method("LoHaConfig", target_modules=["q_proj"]),
    _method("PromptTuningConfig", num_virtual_tokens=2),
    _method("VeraConfig", target_modules=["q_proj"]),
    _method("OFTConfig", target_modules=["q_proj"], r=2, oft_block_size=0),
)  # fmt: skip
