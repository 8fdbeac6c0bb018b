"""From flags to Tasks: which data, which prompts, which model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from data_pipes import tokenizer as tokenizers
from data_pipes.answers import match
from data_pipes.answers.match import QuestionAnswer
from data_pipes.chat.chat import ChatTemplate, encode_chat
from data_pipes.chat.messages import Message
from data_pipes.choices import by_subject
from data_pipes.digest import hash_json
from data_pipes.embedded import python_library, tuning_rows
from data_pipes.embedded.tasks import OPEN
from data_pipes.source import path as source
from data_pipes.source.multiple_choice import multiple_choice
from data_pipes.types import BadRow, Row
from pure.generation.sampling import Sampling
from pure.generation.stepper import stepper
from pure.types import Tree
from stages.checkpoint.fingerprint import describe
from stages.evaluate import exact_match, humaneval, mbpp, mmlu, perplexity, programs
from stages.evaluate.completion import Decoding
from stages.evaluate.options import NEEDS_DATA, EvaluateOptions
from stages.evaluate.task import Task
from stages.models import hardware, language_model
from stages.models.chat_template import stop_ids, template_of
from stages.models.language_model import Pretrained
from stages.models.text_prompt import prefix_token
from stages.run.data import bad_rows
from stages.run.options.ranges import check_ranges

EXAM = 126
"""The demo's held-out questions that are asked."""

STYLE_OF: Mapping[str, str] = {"mmlu": "letter", "arc": "answer", "hellaswag": "continue"}

FREE = (
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
"""Flags that a folder's answers do not depend on, or that are told apart otherwise: digests of model and
tokenizer, of each item, and of what decides how items are asked."""

CHATTING = ("exact_match", "gsm8k", "humaneval", "mbpp")
"""Tasks that can be asked as a chat."""

BAD = "bad_rows.jsonl"


def load(options: EvaluateOptions) -> Pretrained:
    """Loads the model onto its device.

    Raises:
        ValueError: for a seed out of range, or a model that is not understood.
        FileNotFoundError: if there is none.
    """
    check_ranges(options)
    device = hardware.pick_device(options.device)
    loaded = language_model.load(options.model_path, dtype=hardware.pick_dtype(options.dtype, device))
    return language_model.move_to(loaded, device)


def tasks(options: EvaluateOptions, loaded: Pretrained) -> list[Task]:
    """Builds the tasks that the flags name.

    Args:
        options: the flags.
        loaded: the model.

    Returns:
        Tasks, in the order of --task.

    Raises:
        ValueError: if a task is named twice, data is missing or of another form, or a number is out of range.
        FileNotFoundError: if there is no such file.
        SandboxMissingError: if programs are to run where they cannot be locked in.
    """
    _check(options)
    if len(set(options.task)) < len(options.task):
        raise ValueError(f"--task {' '.join(options.task)}: a task is named twice")
    paths = options.data_path or ("embedded",) * len(options.task)
    if len(paths) != len(options.task):
        raise ValueError(
            f"--data_path has {len(paths)} entries for {len(options.task)} tasks ({', '.join(options.task)}); give one "
            'for each, in their order, "embedded" for a task\'s own data'
        )
    _check_templates(options, paths)
    (Path(options.output_dir) / BAD).unlink(missing_ok=True)  # of an earlier start
    made = []
    for name, path in zip(options.task, paths, strict=True):
        if name in NEEDS_DATA and path == "embedded":
            raise ValueError(f"--task {name} has no data of its own; name it by --data_path")
        made.append(_BUILDERS[name](name, path, options, loaded))
    return made


def _check(options: EvaluateOptions) -> None:
    """Checks the numbers before any work."""
    check_ranges(options)
    if options.temperature == 0 and (options.samples > 1 or options.top_p is not None):
        raise ValueError(
            f"--temperature 0 always writes the same: --samples {options.samples} and --top_p {options.top_p} need one "
            "above 0, such as --temperature 0.8"
        )


def _check_templates(options: EvaluateOptions, paths: Sequence[str]) -> None:
    """Refuses flags of the chat template where no task goes through one."""
    chats = any(_chats(task, path, options) for task, path in zip(options.task, paths, strict=True))
    given = [
        f"--{name}" for name in ("chat_template", "template_kwargs") if getattr(options, name) is not None
    ]
    if given and not chats:
        raise ValueError(
            f"{' and '.join(given)} would have no effect: --task {' '.join(options.task)} is not asked as a chat here; "
            f"add --chat ({', '.join(CHATTING)}), or leave it out"
        )


def _chats(task: str, path: str, options: EvaluateOptions) -> bool:
    """Tells whether a task is asked as a chat: as --chat says, or else the demo's own questions."""
    if options.chat is None:
        return task == "exact_match" and path == "embedded"
    return options.chat and task in CHATTING


def _on_bad(options: EvaluateOptions) -> Callable[[BadRow], None]:
    """Stops at a bad row in the words of the command line, or notes it and goes on."""
    return bad_rows.handler(options.on_bad, Path(options.output_dir) / BAD)


def about(options: EvaluateOptions, loaded: Pretrained) -> dict[str, Any]:
    """Says what the answers depend on: the model's digest and the flags, as plain JSON."""
    flags = {name: value for name, value in asdict(options).items() if name not in FREE}
    return {
        "model_sha256": digest(loaded.params),
        "model": str(loaded.model.config),
        "tokenizer_sha256": tokenizers.fingerprint(loaded.tokenizer),
        "options": json.loads(json.dumps(flags)),
    }


def digest(params: Tree) -> str:
    """A hash of the weights: equal for equal weights, whatever file they came from."""
    return hash_json(describe(params))


def _perplexity(name: str, path: str, options: EvaluateOptions, loaded: Pretrained) -> Task:
    """Text that the model has not seen."""
    found = (
        python_library.documents("held_out")
        if path == "embedded"
        else source.documents(
            path, field=options.field, subset=options.subset, split=options.split, on_bad=_on_bad(options)
        )
    )
    return perplexity.task(
        *loaded[:3],
        _first(found, options),
        max_length=options.max_length,
        stride=options.stride,
        prefix=prefix_token(loaded) if options.prefix is None else options.prefix,
        tokens=options.batch_tokens,
        name=name,
    )


def _choices(name: str, path: str, options: EvaluateOptions, loaded: Pretrained) -> Task:
    """Questions with choices."""
    found = multiple_choice(
        path, split=options.split, subset=options.subset, dev_path=options.dev_path, on_bad=_on_bad(options)
    )
    asked = [q for part in by_subject(found.test).values() for q in _first(part, options)]
    return mmlu.task(
        *loaded[:3],
        found._replace(test=asked),
        shots=options.shots,
        style=options.style or STYLE_OF[name],
        tokens=options.batch_tokens,
        prefix=prefix_token(loaded),
        name=name,
    )


def _programs(name: str, path: str, options: EvaluateOptions, loaded: Pretrained) -> Task:
    """Programs: HumanEval's continued or, in a chat, asked for; MBPP's always asked for."""
    rows = _rows(str(humaneval.installed()) if path == "embedded" else path, options)
    kind: Any = {"humaneval": humaneval, "mbpp": mbpp}[name]
    found = _first(kind.problems(rows, on_bad=_on_bad(options)), options)
    way, stops, stop_tokens = None, kind.STOPS, stop_ids(loaded)
    if _chats(name, path, options):
        template = template_of(options.chat_template, loaded, options.template_kwargs)
        encode, form, stop_tokens = chat_encoder(loaded, template=template)
        way, stops = programs.asked(encode, form=form), ()
    elif name == "mbpp":
        found = [problem._replace(question=f"{problem.question}[BEGIN]\n") for problem in found]
    return humaneval.task(
        *loaded[:3],
        found,
        decoding=_decoding(options, 512, stops, stop_tokens),
        samples=options.samples,
        ks=options.pass_at,
        timeout=options.timeout,
        workers=options.workers,
        way=way,
        unsafe=options.run_untrusted_code_without_isolation,
        compile=_machine(options, loaded),
        name=name,
    )


def _exact_match(name: str, path: str, options: EvaluateOptions, loaded: Pretrained) -> Task:
    """Questions with one right answer."""
    own = path == "embedded"
    rows = exam() if own else list(match.read_question_answers(_rows(path, options), on_bad=_on_bad(options)))
    chat = _chats(name, path, options)
    shown: Sequence[QuestionAnswer] = ()
    if name == "gsm8k" and options.shots and not chat:
        shown = _examples(options)
    encode: Callable | None = None
    form, stop_tokens = "plain", stop_ids(loaded)
    if chat:
        template = template_of(options.chat_template, loaded, options.template_kwargs)
        encode, form, stop_tokens = chat_encoder(loaded, template=template)
    stops = () if chat else exact_match.GSM8K_STOPS
    return exact_match.task(
        *loaded[:3],
        _first(rows, options),
        decoding=_decoding(options, 24 if own else 256, stops, stop_tokens),
        judges=exact_match.JUDGES["gsm8k" if name == "gsm8k" else options.answers],
        examples=shown,
        encode=encode,
        form=form,
        compile=_machine(options, loaded),
        name=name,
    )


def _rows(path: str, options: EvaluateOptions) -> Iterator[Row]:
    """Rows of a file, a folder or a data set."""
    return source.rows(path, subset=options.subset, split=options.split, on_bad=_on_bad(options))


def exam(count: int = EXAM) -> list[QuestionAnswer]:
    """The demo's held-out questions: those of every family that has one right answer."""
    families = [family for family in tuning_rows.SFT_FAMILIES if family not in OPEN]
    rows = tuning_rows.prompts(count, key=0, part="held_out", families=families)
    return [QuestionAnswer(row.values["prompt"], row.values["answer"], row.name) for row in rows]


def chat_encoder(
    loaded: Pretrained, *, template: ChatTemplate | None = None
) -> tuple[Callable[[str], list[int]], str, tuple[int, ...]]:
    """Makes what turns a question into a chat's prompt.

    Args:
        loaded: whose template and tokenizer are taken.
        template: another one; None takes the model's own, or ChatML.

    Returns:
        (question -> ids, the template's text with its variables, the ids that end an answer).
    """
    chosen = template or template_of(None, loaded)
    encode = partial(_chat_ids, template=chosen, tokenizer=loaded.tokenizer)
    text = chosen.source + (f"\n{chosen.variables!r}" if chosen.variables else "")
    return encode, text, stop_ids(loaded, chosen)


def _chat_ids(question: str, *, template: Any, tokenizer: Any) -> list[int]:
    """A question as the user's turn."""
    said = [Message("user", question)]
    return encode_chat(template, tokenizer, said, add_generation_prompt=True).tokens.tolist()


def _examples(options: EvaluateOptions) -> list[QuestionAnswer]:
    """The first rows of --dev_path."""
    if options.dev_path is None:
        raise ValueError(
            f"--shots {options.shots}: gsm8k's examples come from --dev_path; name a file, or --shots 0"
        )
    found = list(match.read_question_answers(_rows(options.dev_path, options), on_bad=_on_bad(options)))
    if len(found) < options.shots:
        raise ValueError(f"--shots {options.shots}: {options.dev_path} has {len(found)} rows")
    return found[: options.shots]


def _decoding(
    options: EvaluateOptions, most: int, stops: tuple[str, ...], stop_tokens: tuple[int, ...]
) -> Decoding:
    """Decoding settings of the flags."""
    sampling = Sampling(
        max_new_tokens=most if options.max_new_tokens is None else options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        stop_tokens=stop_tokens,
    )
    return Decoding(sampling, stop=stops, seed=options.seed)


def _machine(options: EvaluateOptions, loaded: Pretrained) -> Any:
    """A compiled step, made once."""
    return stepper(loaded.model) if options.compile else False


def _first(found: Any, options: EvaluateOptions) -> list:
    """As many as wanted."""
    return list(islice(found, options.limit))


_BUILDERS: Mapping[str, Callable[..., Task]] = {
    "perplexity": _perplexity, "mmlu": _choices, "arc": _choices, "hellaswag": _choices, "humaneval": _programs,
    "mbpp": _programs,
    "gsm8k": _exact_match, "exact_match": _exact_match,
}  # fmt: skip
