"""Questions with one right answer: the model writes, and what it wrote is compared.

GSM8K is the best known set of this form; any rows of question and answer will do.

Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from data_pipes.answers import match
from data_pipes.answers.match import QuestionAnswer
from data_pipes.tokenizer.spec import Tokenizer
from pure.generation.stepper import Stepper
from pure.types import Model, Tree
from stages.evaluate.completion import Decoding, complete
from stages.evaluate.completion import about as about_decoding
from stages.evaluate.request import beginning, encode_text
from stages.evaluate.task import Figure, Report, Sample, Task, digest, finish, mean

Judge = Callable[[str, str], bool]
"""(output, answer) -> whether it is right."""

JUDGES: Mapping[str, Mapping[str, Judge]] = {
    "gsm8k": {
        "strict": partial(match.exact_match, mode="strict"),
        "flexible": partial(match.exact_match, mode="flexible"),
    },
    "number": {"number": partial(match.exact_match, mode="number")},
    "text": {"text": partial(match.exact_match, mode="text")},
}
"""How answers are compared; of several the first is the score."""

GSM8K_STOPS = ("Question:", "</s>", "<|im_end|>")
"""Where an answer in the plain form ends: it goes on to the next question, or says that it is done."""


def plain(question: str) -> str:
    """GSM8K's form, as lm-evaluation-harness writes it."""
    return f"Question: {question}\nAnswer:"


def exact_match(
    model: Model, params: Tree, tokenizer: Tokenizer, rows: Sequence[QuestionAnswer], **options: Any
) -> Report:
    """Asks questions, and counts the answers that are right.

    Args:
        model, params, tokenizer, rows, options: see `task`.

    Returns:
        Report: "exact_match/JUDGE" of each; one sample a question.

    Raises:
        ValueError: if examples are given for a form of one's own, or there are no questions.
    """
    return finish(task(model, params, tokenizer, rows, **options))


def task(
    model: Model,
    params: Tree,
    tokenizer: Tokenizer,
    rows: Sequence[QuestionAnswer],
    *,
    decoding: Decoding,
    judges: Mapping[str, Judge],
    examples: Sequence[QuestionAnswer] = (),
    encode: Callable[[str], Sequence[int]] | None = None,
    form: str = "plain",
    compile: bool | Stepper = False,
    name: str = "exact_match",
    chunk: int = 32,
) -> Task:
    """Prepares `exact_match` as a Task.

    Args:
        model: gives `decode` and `cache`.
        params: the model's.
        tokenizer: that both were made with.
        rows: to ask.
        decoding: how answers are drawn, and where they end.
        judges: by name; the first one's verdict is the score.
        examples: shown before each question with their answers; only in the plain form.
        encode: question -> ids of a whole prompt, such as a chat's; None writes "Question: ...\\nAnswer:".
        form: what that form is called in the records, such as a chat template's text.
        compile: as in `pure.generation.generate.generate`.
        name: what results call it.
        chunk: questions that are answered side by side.

    Returns:
        Task, one item a question.

    Raises:
        ValueError: if examples are given for a form of one's own.
    """
    if examples and encode is not None:
        raise ValueError(f"{name}: examples are only shown in the plain form; drop them, or the chat's form")
    before = "".join(f"{plain(row.question)} {row.answer}\n\n" for row in examples)
    asking = partial(
        _answer,
        model=model,
        params=params,
        tokenizer=tokenizer,
        rows=rows,
        decoding=decoding,
        judges=judges,
        before=before,
        encode=encode,
        compile=compile,
    )
    about = {
        "task": "exact_match",
        "before": before,
        "form": form,
        **about_decoding(decoding),
        "judges": sorted(judges),
    }
    items = [digest(row.question, row.answer) for row in rows]
    return Task(
        name, [row.name for row in rows], asking, partial(summary, judges=tuple(judges)), about, chunk, items
    )


def summary(samples: Sequence[Sample], *, judges: Sequence[str]) -> dict[str, Figure]:
    """The share of right answers by each judge: "exact_match/JUDGE"."""
    return {f"exact_match/{judge}": mean([float(s["verdicts"][judge]) for s in samples]) for judge in judges}


def _answer(
    numbers: Sequence[int],
    *,
    model: Model,
    params: Tree,
    tokenizer: Tokenizer,
    rows: Sequence[QuestionAnswer],
    decoding: Decoding,
    judges: Mapping[str, Judge],
    before: str,
    encode: Callable | None,
    compile: bool | Stepper,
) -> list[Sample]:
    """A chunk of questions, side by side."""
    chosen = [rows[i] for i in numbers]
    texts = [row.question if encode else before + plain(row.question) for row in chosen]
    asked = encode or partial(encode_text, tokenizer, prefix=beginning(model))
    prompts = [asked(text) for text in texts]
    found = complete(model, params, tokenizer, prompts, [(i, 0) for i in numbers], decoding, compile=compile)
    samples: list[Sample] = []
    for row, ids, written in zip(chosen, prompts, found, strict=True):
        verdicts = {name: judge(written.text, row.answer) for name, judge in judges.items()}
        samples.append(
            {
                "question": row.question,
                "prompt": tokenizer.decode(list(ids)),
                "output": written.text,
                "target": row.answer,
                "score": float(next(iter(verdicts.values()))),
                "verdicts": verdicts,
                "ended": written.ended,
                "dropped": written.dropped,
            }
        )
    return samples
