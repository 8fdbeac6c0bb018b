"""The course: exercises in ten chapters. Each is a function of the source, which is the solution."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from stages.teach import messages
from stages.teach.messages import Sentence


class Exercise(NamedTuple):
    """A function whose body a learner writes.

    Fields:
        name: unique in the course: the function's name, or one with its module's where that is not unique.
        module: dotted name of its module.
        function: its name in that module.
        minutes: to expect for someone who has read the chapter.
    """

    name: str
    module: str
    function: str
    minutes: int


class Chapter(NamedTuple):
    """Exercises on one subject.

    Fields:
        number: from 1.
        name: of its page, `chapters/NN-name.md`.
        title: for readers.
        exercises: in a good order.
    """

    number: int
    name: str
    title: str
    exercises: tuple[Exercise, ...]


COURSE: tuple[Chapter, ...] = (
    Chapter(
        1,
        "tokenizer",
        "Tokenizer",
        (
            Exercise("merge_pair", "data_pipes.tokenizer.bpe", "merge_pair", 10),
            Exercise("count_pairs", "data_pipes.tokenizer.bpe", "count_pairs", 10),
            Exercise("learn_merges", "data_pipes.tokenizer.bpe", "learn_merges", 30),
            Exercise("apply_merges", "data_pipes.tokenizer.bpe", "apply_merges", 20),
            Exercise("to_characters", "data_pipes.tokenizer.byte_level", "to_characters", 5),
            Exercise("to_bytes", "data_pipes.tokenizer.byte_level", "to_bytes", 10),
            Exercise("byte_level_encode", "data_pipes.tokenizer.byte_level", "encode", 10),
            Exercise("byte_level_decode", "data_pipes.tokenizer.byte_level", "decode", 10),
            Exercise("merge_word", "data_pipes.tokenizer.merge", "merge_word", 45),
        ),
    ),
    Chapter(
        2,
        "shapes",
        "Configuration, shapes, norm, positions",
        (
            Exercise("attention_spec", "pure.nn.attention", "attention_spec", 15),
            Exercise("feedforward_spec", "pure.nn.feedforward", "feedforward_spec", 10),
            Exercise("rms_norm", "pure.nn.norm", "rms_norm", 10),
            Exercise("layer_norm", "pure.nn.norm", "layer_norm", 10),
            Exercise("sinusoidal", "pure.nn.position", "sinusoidal", 15),
            Exercise("rope_frequencies", "pure.nn.position", "rope_frequencies", 15),
            Exercise("rotation", "pure.nn.position", "rotation", 10),
            Exercise("rotate", "pure.nn.position", "rotate", 15),
            Exercise("scale_llama3", "pure.nn.position", "_scale_llama3", 15),
            Exercise("scale_yarn", "pure.nn.position", "_scale_yarn", 25),
        ),
    ),
    Chapter(
        3,
        "attention",
        "Attention",
        (
            Exercise("grouped", "pure.nn.naive", "grouped", 10),
            Exercise("causal_mask", "pure.nn.naive", "causal_mask", 25),
            Exercise("naive_masked", "pure.nn.naive", "masked", 15),
            Exercise("attend", "pure.nn.naive", "_attend", 20),
            Exercise("naive", "pure.nn.naive", "naive", 40),
            Exercise("cache_append", "pure.nn.cache", "append", 20),
            Exercise("attention", "pure.nn.attention", "attention", 40),
            Exercise("single", "pure.nn.single", "single", 35),
        ),
    ),
    Chapter(
        4,
        "model",
        "Feed-forward, block, model",
        (
            Exercise("linears", "pure.nn.linear", "linears", 15),
            Exercise("feedforward", "pure.nn.feedforward", "feedforward", 10),
            Exercise("block", "pure.nn.block", "block", 20),
            Exercise("hidden", "pure.nn.transformer", "hidden", 40),
            Exercise("transformer_decode", "pure.nn.transformer", "decode", 30),
            Exercise("dropout_masks", "pure.nn.dropout", "dropout_masks", 40),
            Exercise("threefry2x32", "pure.random.threefry", "threefry2x32", 25),
        ),
    ),
    Chapter(
        5,
        "generation",
        "Generation",
        (
            Exercise("temperature", "pure.generation.sample", "temperature", 10),
            Exercise("top_k", "pure.generation.sample", "top_k", 10),
            Exercise("min_p", "pure.generation.sample", "min_p", 5),
            Exercise("top_p", "pure.generation.sample", "top_p", 20),
            Exercise("repetition_penalty", "pure.generation.sample", "repetition_penalty", 10),
            Exercise("log_probability", "pure.generation.sample", "log_probability", 10),
            Exercise("sample", "pure.generation.sample", "sample", 15),
            Exercise("draw_uniforms", "pure.generation.controls", "draw_uniforms", 20),
            Exercise("sample_tokens", "pure.generation.controls", "sample_tokens", 25),
            Exercise("stepper_step", "pure.generation.stepper", "step", 30),
        ),
    ),
    Chapter(
        6,
        "adapters",
        "LoRA and NF4",
        (
            Exercise("lora_linear", "pure.nn.linear", "lora_linear", 15),
            Exercise("materialize", "pure.adapt.attach", "materialize", 15),
            Exercise("row_norms", "pure.nn.linear", "row_norms", 25),
            Exercise("find_nearest", "pure.nn.nf4", "find_nearest", 5),
            Exercise("quantize", "pure.nn.nf4", "quantize", 30),
            Exercise("dynamic_code", "pure.nn.nf4", "dynamic_code", 20),
            Exercise("quantize_scales", "pure.nn.nf4", "quantize_scales", 15),
            Exercise("block_scales", "pure.nn.nf4", "block_scales", 10),
            Exercise("dequantize", "pure.nn.nf4", "dequantize", 20),
        ),
    ),
    Chapter(
        7,
        "data",
        "Data",
        (
            Exercise("cut_rows", "data_pipes.pack", "cut_rows", 10),
            Exercise("segments", "data_pipes.pack", "segments", 25),
            Exercise("shift_example", "data_pipes.ragged", "shift_example", 10),
            Exercise("sft_take", "data_pipes.sft", "take", 25),
            Exercise("split_long", "data_pipes.pack", "split_long", 15),
            Exercise("best_fit_decreasing", "data_pipes.pack", "best_fit_decreasing", 40),
            Exercise("permute", "data_pipes.shuffle", "permute", 25),
            Exercise("truncate_sides", "data_pipes.preference", "truncate_sides", 20),
            Exercise("windows_take", "data_pipes.windows", "take", 30),
            Exercise("hash_ngrams", "data_pipes.ngram", "hash_ngrams", 10),
            Exercise("signature", "data_pipes.duplicates", "signature", 25),
        ),
    ),
    Chapter(
        8,
        "losses",
        "Losses",
        (
            Exercise("cross_entropy", "pure.loss.cross_entropy", "cross_entropy", 25),
            Exercise("log_probability_from_logits", "pure.loss.log_probability", "_from_logits", 15),
            Exercise("bradley_terry", "pure.loss.reward", "bradley_terry", 10),
            Exercise("dpo_loss", "pure.loss.dpo", "dpo_loss", 35),
            Exercise("kto_loss", "pure.loss.kto", "kto_loss", 15),
            Exercise("orpo_loss", "pure.loss.orpo", "orpo_loss", 20),
            Exercise("kl", "pure.loss.kl", "kl", 15),
            Exercise("exact_kl", "pure.loss.kl", "exact_kl", 15),
            Exercise("adaptive_coefficient", "pure.loss.kl", "adaptive_coefficient", 10),
            Exercise("group_advantages", "pure.loss.advantages", "group_advantages", 30),
            Exercise("leave_one_out", "pure.loss.advantages", "leave_one_out", 10),
            Exercise("grpo_loss", "pure.loss.grpo", "grpo_loss", 60),
            Exercise("whiten", "pure.loss.whiten", "whiten", 15),
            Exercise("gae", "pure.loss.ppo", "gae", 35),
            Exercise("ppo_policy_loss", "pure.loss.ppo", "ppo_policy_loss", 15),
            Exercise("ppo_value_loss", "pure.loss.ppo", "ppo_value_loss", 15),
            Exercise("importance_weights", "pure.loss.importance", "importance_weights", 15),
        ),
    ),
    Chapter(
        9,
        "optimizers",
        "Optimizers",
        (
            Exercise("trace_update", "pure.optim.sgd", "trace_update", 10),
            Exercise("adam_update", "pure.optim.adamw", "adam_update", 30),
            Exercise("lion_update", "pure.optim.lion", "lion_update", 15),
            Exercise("decay_update", "pure.optim.weight_decay", "decay_update", 20),
            Exercise("clip_by_global_norm_update", "pure.optim.clip", "clip_by_global_norm_update", 15),
            Exercise("ema_update", "pure.optim.ema", "ema_update", 15),
            Exercise("schedule_polynomial", "pure.optim.schedule", "_polynomial", 10),
            Exercise("schedule_cosine", "pure.optim.schedule", "_cosine", 10),
            Exercise("schedule_joined", "pure.optim.schedule", "_joined", 15),
            Exercise("wsd_decay", "pure.optim.warmup", "_decay", 10),
            Exercise("warmup_cosine_decay_schedule", "pure.optim.warmup", "warmup_cosine_decay_schedule", 15),
            Exercise("sum_micro_batches", "pure.transform.accumulate", "_sum_micro_batches", 15),
            Exercise("orthogonalize", "pure.optim.newton_schulz", "orthogonalize", 40),
            Exercise("step_update", "stages.step", "update", 25),
            Exercise("step", "stages.step", "step", 50),
        ),
    ),
    Chapter(
        10,
        "evaluation",
        "Evaluation",
        (
            Exercise("mean", "stages.evaluate.task", "mean", 10),
            Exercise("ratio", "stages.evaluate.task", "ratio", 15),
            Exercise("cut_windows", "stages.evaluate.perplexity", "cut_windows", 20),
            Exercise("read_windows", "stages.evaluate.likelihood", "_read_windows", 35),
            Exercise("perplexity_summarize", "stages.evaluate.perplexity", "summarize", 15),
            Exercise("mmlu_sample", "stages.evaluate.mmlu", "_sample", 15),
            Exercise("mmlu_summarize", "stages.evaluate.mmlu", "summarize", 25),
            Exercise("pass_at_k", "stages.evaluate.humaneval", "pass_at_k", 10),
            Exercise("mcnemar", "stages.evaluate.compare", "mcnemar", 15),
            Exercise("error_bars", "stages.selection", "error_bars", 15),
        ),
    ),
)


def find_exercise(name: str) -> Exercise:
    """Finds an exercise by its name.

    Raises:
        ValueError: if there is none; its argument is a `Sentence`, which has a similar name.

    Example:
        >>> find_exercise("merge_pair").module
        'data_pipes.tokenizer.bpe'
        >>> find_exercise("merge_pairs")
        Traceback (most recent call last):
        ValueError: unknown exercise 'merge_pairs'; did you mean 'merge_pair'?
    """
    names = {exercise.name: exercise for chapter in COURSE for exercise in chapter.exercises}
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, 1) or [n for n in names if len(name) > 2 and name in n]
    if near:
        raise ValueError(Sentence(messages.UNKNOWN_EXERCISE_NEAR, {"name": name, "near": near[0]}))
    raise ValueError(Sentence(messages.UNKNOWN_EXERCISE, {"name": name}))


def find_chapter(number: int) -> Chapter:
    """Finds a chapter by its number.

    Raises:
        ValueError: if there is none; its argument is a `Sentence`.

    Example:
        >>> find_chapter(6).title
        'LoRA and NF4'
    """
    for chapter in COURSE:
        if chapter.number == number:
            return chapter
    raise ValueError(Sentence(messages.UNKNOWN_CHAPTER, {"number": number, "last": COURSE[-1].number}))


def exercises_of_module(module: str) -> tuple[Exercise, ...]:
    """Returns the exercises of a module, in the order of the course.

    Example:
        >>> [exercise.name for exercise in exercises_of_module("data_pipes.tokenizer.bpe")][:2]
        ['merge_pair', 'count_pairs']
    """
    exercises = [exercise for chapter in COURSE for exercise in chapter.exercises]
    return tuple(exercise for exercise in exercises if exercise.module == module)


def course_modules() -> tuple[str, ...]:
    """Returns the modules that have exercises, in the order of the course."""
    return tuple(dict.fromkeys(exercise.module for chapter in COURSE for exercise in chapter.exercises))


def module_path(module: str) -> str:
    """Path of a module's file, relative to the folder of the packages, or of an edition.

    Example:
        >>> module_path("pure.loss.dpo")
        'pure/loss/dpo.py'
    """
    return module.replace(".", "/") + ".py"
