"""Build the tasks that the flags name: data, prompts, sampling.

The builder of each task takes the flags that it reads, which `stages.evaluate.options` lists.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from data_pipes import tokenizer as tokenizers
from data_pipes.answers import match
from data_pipes.answers.match import QuestionAnswer
from data_pipes.choices import group_by_subject
from data_pipes.digest import hash_json
from data_pipes.embedded import python_library, tuning_rows
from data_pipes.embedded.tasks import AMBIGUOUS
from data_pipes.source import path as source
from data_pipes.source.multiple_choice import multiple_choice
from data_pipes.types import BadRow, Row
from pure.generation.sampling import Sampling
from pure.generation.stepper import stepper
from pure.plural import count_noun
from pure.types import Tree
from stages.checkpoint.fingerprint import describe
from stages.evaluate import exact_match, humaneval, mbpp
from stages.evaluate.chat_prompt import ChatPrompt, chat_prompt
from stages.evaluate.completion import Decoding
from stages.evaluate.mmlu import mmlu
from stages.evaluate.options import (
    NEEDS_DATA,
    ChoiceFlags,
    EvaluateOptions,
    ExactMatchFlags,
    GenerationFlags,
    GSM8KFlags,
    PerplexityFlags,
    ProgramFlags,
    TaskFlags,
    refuse_unread,
)
from stages.evaluate.perplexity import perplexity
from stages.evaluate.programs import chat_format
from stages.evaluate.task import Task
from stages.models.chat_template import stop_ids, template_of
from stages.models.language_model import Pretrained
from stages.models.text_prompt import prefix_token
from stages.run.data import bad_rows
from stages.run.options.groups import ChatModelFlags
from stages.run.options.ranges import check_values

Item = TypeVar("Item")

DEMO_QUESTIONS = 126
"""Number of the demo's held-out questions."""

STYLE_OF: Mapping[str, str] = {"mmlu": "letter", "arc": "answer", "hellaswag": "continue"}
"""Default --style of each task with choices."""

NOT_IN_PROVENANCE = (
    "seed",
    "limit",
    "output_dir",
    "workers",
    "batch_tokens",
    "compile",
    "device",
    "pass_at",
    "model_path",
    "data_path",
    "dev_path",
    "on_bad",
)
"""Flags that a saved sample does not depend on, or that are recorded otherwise: by digests of the model, the
tokenizer, each question, and the prompts."""

CHAT_TASKS = ("exact_match", "gsm8k", "humaneval", "mbpp")
"""Tasks with a chat format."""

BAD_ROWS = "bad_rows.jsonl"
"""File of the skipped rows, in --output_dir."""


def build_tasks(options: EvaluateOptions, loaded: Pretrained) -> list[Task]:
    """Build the tasks that the flags name.

    Args:
        options: the flags.
        loaded: the model.

    Returns:
        Tasks, in the order of --task.

    Raises:
        ValueError: if a task is named twice, a flag has no effect or is out of range, or a task's data is
            missing or in another format.
        FileNotFoundError: if a data file does not exist.
        SandboxMissingError: if programs are to be run and cannot be isolated here.
    """
    names = options.task
    check_values(options)
    if options.temperature == 0 and (options.samples > 1 or options.top_p is not None):
        raise ValueError(
            "--temperature 0 decodes greedily, without --samples above 1 or --top_p; got --samples "
            f"{options.samples}, --top_p {options.top_p}: leave them out, or use --temperature 0.8"
        )
    refuse_unread(options)
    if len(set(names)) < len(names):
        raise ValueError(f"--task {' '.join(names)}: a task is named twice; name each once")
    paths = options.data_path or ("embedded",) * len(names)
    if len(paths) != len(names):
        raise ValueError(
            f"--data_path has {count_noun(len(paths), 'entry', 'entries')} for "
            f"{count_noun(len(names), 'task')} ({', '.join(names)}); "
            'give one for each task, in order; "embedded" is a task\'s own data'
        )
    _check_template_flags(options, names, paths)
    (Path(options.output_dir) / BAD_ROWS).unlink(missing_ok=True)  # of an earlier run
    tasks = []
    for name, path in zip(names, paths, strict=True):
        if name in NEEDS_DATA and path == "embedded":
            raise ValueError(f"--task {name} has no data of its own; name a file or data set by --data_path")
        tasks.append(_BUILDERS[name](name, path, options, loaded))
    return tasks


def describe_windows(loaded: Pretrained, max_length: int | None) -> str:
    """Say how long the windows of perplexity are, and why; "" if --max_length says it.

    A --max_length beyond the rows that the model was pretrained on gets a warning: at positions that training
    never reached a model may predict badly.
    """
    trained = loaded.trained_length
    if max_length is None:
        context = loaded.model.config.max_position_embeddings
        if trained is None:
            return f"perplexity: windows of {context} tokens, the model's context"
        return (
            f"perplexity: windows of {trained} tokens, as long as the rows that the model was pretrained on; "
            f"its context is {context}"
        )
    if trained is None or max_length <= trained:
        return ""
    return (
        f"warning: --max_length {max_length}: the model was pretrained on rows of {trained} tokens; later "
        f"positions may be new to it, and perplexity much higher; --max_length {trained} leaves them out"
    )


def describe_prompts(
    names: Sequence[str], paths: Sequence[str], chat: bool | None, loaded: Pretrained
) -> str:
    """Say that a model with a chat template is asked in plain text, if no flag says so; else ""."""
    paths = paths or ("embedded",) * len(names)
    plain = [
        name
        for name, path in zip(names, paths, strict=True)
        if name in CHAT_TASKS and not _uses_chat(name, path, chat)
    ]
    if chat is not None or loaded.chat_template is None or not plain:
        return ""
    return (
        f"{', '.join(plain)}: asked in plain text; --chat asks through the chat template, as a model after "
        "sft expects"
    )


def describe_provenance(options: EvaluateOptions, loaded: Pretrained) -> dict[str, Any]:
    """Return what the samples depend on: digests of model and tokenizer, and the flags, as plain JSON."""
    flags = {name: value for name, value in asdict(options).items() if name not in NOT_IN_PROVENANCE}
    return {
        "model_sha256": hash_params(loaded.params),
        "model": str(loaded.model.config),
        "tokenizer_sha256": tokenizers.fingerprint(loaded.tokenizer),
        "options": json.loads(json.dumps(flags)),
    }


def hash_params(params: Tree) -> str:
    """Return a hash of the weights, equal for equal weights, whatever file they were read from."""
    return hash_json(describe(params))


def demo_questions(count: int = DEMO_QUESTIONS) -> list[QuestionAnswer]:
    """Return the demo's held-out questions, of every family that has one right answer."""
    families = [family for family in tuning_rows.SFT_FAMILIES if family not in AMBIGUOUS]
    rows = tuning_rows.prompts(count, key=0, part="held_out", families=families)
    return [QuestionAnswer(row.values["prompt"], row.values["answer"], row.name) for row in rows]


def _check_template_flags(flags: GenerationFlags, names: Sequence[str], paths: Sequence[str]) -> None:
    """Raise for flags of the chat template if no task uses it."""
    values = {"chat_template": flags.chat_template, "template_kwargs": flags.template_kwargs}
    unused = [f"--{name}" for name, value in values.items() if value is not None]
    chats = any(_uses_chat(name, path, flags.chat) for name, path in zip(names, paths, strict=True))
    if unused and not chats:
        raise ValueError(
            f"{' and '.join(unused)} would have no effect: --task {' '.join(names)} does not use the "
            f"chat template here; add --chat ({', '.join(CHAT_TASKS)}), or leave it out"
        )


def _uses_chat(task: str, path: str, chat: bool | None) -> bool:
    """Test whether a task uses the chat template: by --chat, or else for the demo's own questions."""
    if chat is None:
        return task == "exact_match" and path == "embedded"
    return chat and task in CHAT_TASKS


def _perplexity(name: str, path: str, flags: PerplexityFlags, loaded: Pretrained) -> Task:
    """Perplexity of held-out text."""
    if path == "embedded":
        documents = python_library.documents("held_out")
    else:
        documents = source.documents(
            path,
            field=flags.field,
            subset=flags.subset,
            split=flags.split,
            on_bad=_bad_row_handler(flags),
        )
    return perplexity(
        *loaded[:3],
        _limit(documents, flags),
        max_length=flags.max_length or loaded.trained_length,
        stride=flags.stride,
        prefix=prefix_token(loaded) if flags.prefix is None else flags.prefix,
        tokens=flags.batch_tokens,
        name=name,
    )


def _multiple_choice(name: str, path: str, flags: ChoiceFlags, loaded: Pretrained) -> Task:
    """Questions with choices; --limit counts for each subject."""
    questions = multiple_choice(
        path,
        split=flags.split,
        subset=flags.subset,
        dev_path=flags.dev_path,
        on_bad=_bad_row_handler(flags),
    )
    test = []
    for subject in group_by_subject(questions.test).values():
        test += _limit(subject, flags)
    return mmlu(
        *loaded[:3],
        questions._replace(test=test),
        shots=flags.shots,
        style=flags.style or STYLE_OF[name],
        tokens=flags.batch_tokens,
        prefix=prefix_token(loaded),
        name=name,
    )


def _programs(name: str, path: str, flags: ProgramFlags, loaded: Pretrained) -> Task:
    """Programming problems, as prompts to continue (HumanEval) or as questions (MBPP, and all in a chat)."""
    rows = _read_rows(str(humaneval.installed_path()) if path == "embedded" else path, flags)
    benchmark = mbpp if name == "mbpp" else humaneval
    problems = _limit(benchmark.read_problems(rows, on_bad=_bad_row_handler(flags)), flags)
    program_format = None
    decoding = _decoding(flags, 512, benchmark.STOPS, stop_ids(loaded))
    if _uses_chat(name, path, flags.chat):
        chat = _chat_prompt(flags, loaded)
        program_format = chat_format(chat.encode, name=chat.form)
        decoding = _decoding(flags, 512, (), chat.stop_tokens)
    elif name == "mbpp":
        problems = [problem._replace(question=f"{problem.question}[BEGIN]\n") for problem in problems]
    return humaneval.humaneval(
        *loaded[:3],
        problems,
        decoding=decoding,
        samples=flags.samples,
        ks=flags.pass_at,
        timeout=flags.timeout,
        workers=flags.workers,
        program_format=program_format,
        unsafe=flags.run_untrusted_code_without_isolation,
        compile=stepper(loaded.model) if flags.compile else False,
        name=name,
    )


def _gsm8k(name: str, path: str, flags: GSM8KFlags, loaded: Pretrained) -> Task:
    """GSM8K, with examples outside a chat."""
    rows = _read_answers(path, flags)
    chat = _chat_prompt(flags, loaded) if _uses_chat(name, path, flags.chat) else None
    examples = [] if chat else _read_examples(flags)
    return _answer_task(name, rows, flags, loaded, "gsm8k", chat, examples)


def _exact_match(name: str, path: str, flags: ExactMatchFlags, loaded: Pretrained) -> Task:
    """Questions with one right answer."""
    demo = path == "embedded"
    rows = demo_questions() if demo else _read_answers(path, flags)
    chat = _chat_prompt(flags, loaded) if _uses_chat(name, path, flags.chat) else None
    return _answer_task(name, rows, flags, loaded, flags.answers, chat, max_new_tokens=24 if demo else 256)


def _answer_task(
    name: str,
    rows: Sequence[QuestionAnswer],
    flags: GenerationFlags,
    loaded: Pretrained,
    judges: str,
    chat: ChatPrompt | None,
    examples: Sequence[QuestionAnswer] = (),
    *,
    max_new_tokens: int = 256,
) -> Task:
    """Questions with one right answer, in a chat or in GSM8K's plain format."""
    stops = () if chat else exact_match.GSM8K_STOPS
    stop_tokens = chat.stop_tokens if chat else stop_ids(loaded)
    return exact_match.exact_match(
        *loaded[:3],
        _limit(rows, flags),
        decoding=_decoding(flags, max_new_tokens, stops, stop_tokens),
        judges=exact_match.JUDGES[judges],
        examples=examples,
        encode=chat.encode if chat else None,
        form=chat.form if chat else "plain",
        compile=stepper(loaded.model) if flags.compile else False,
        name=name,
    )


def _read_rows(path: str, flags: TaskFlags) -> Iterator[Row]:
    """Rows of a file, a folder or a data set."""
    on_bad = _bad_row_handler(flags)
    return source.rows(path, subset=flags.subset, split=flags.split, on_bad=on_bad)


def _read_answers(path: str, flags: TaskFlags) -> list[QuestionAnswer]:
    """Questions and answers of a file, a folder or a data set."""
    return list(match.read_question_answers(_read_rows(path, flags), on_bad=_bad_row_handler(flags)))


def _read_examples(flags: GSM8KFlags) -> list[QuestionAnswer]:
    """The first --shots rows of --dev_path."""
    shots = flags.shots
    if not shots:
        return []
    if flags.dev_path is None:
        raise ValueError(f"--shots {shots}: gsm8k's examples come from --dev_path; name a file, or --shots 0")
    rows = _read_answers(flags.dev_path, flags)
    if len(rows) < shots:
        raise ValueError(
            f"--shots {shots}: {flags.dev_path} has {len(rows)} rows; name a longer file, or --shots "
            f"{len(rows)}"
        )
    return rows[:shots]


def _bad_row_handler(flags: TaskFlags) -> Callable[[BadRow], None]:
    """Handler of unreadable rows selected by --on_bad."""
    return bad_rows.handler(flags.on_bad, Path(flags.output_dir) / BAD_ROWS)


def _chat_prompt(flags: ChatModelFlags, loaded: Pretrained) -> ChatPrompt:
    """Chat prompt encoder of the template that the flags name."""
    return chat_prompt(loaded, template=template_of(flags.chat_template, loaded, flags.template_kwargs))


def _decoding(
    flags: GenerationFlags, max_new_tokens: int, stops: tuple[str, ...], stop_tokens: tuple[int, ...]
) -> Decoding:
    """Decoding settings of the flags, with the task's default of --max_new_tokens."""
    sampling = Sampling(
        max_new_tokens=flags.max_new_tokens or max_new_tokens,
        temperature=flags.temperature,
        top_p=flags.top_p,
        stop_tokens=stop_tokens,
    )
    return Decoding(sampling, stop=stops, seed=flags.seed)


def _limit(items: Iterable[Item], flags: TaskFlags) -> list[Item]:
    """The first --limit items."""
    return list(islice(items, flags.limit))


_BUILDERS: Mapping[str, Callable[[str, str, EvaluateOptions, Pretrained], Task]] = MappingProxyType(
    {
        "perplexity": _perplexity,
        "mmlu": _multiple_choice,
        "arc": _multiple_choice,
        "hellaswag": _multiple_choice,
        "humaneval": _programs,
        "mbpp": _programs,
        "gsm8k": _gsm8k,
        "exact_match": _exact_match,
    }
)
