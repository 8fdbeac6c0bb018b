"""Questions with one right answer: the model's completion is compared with it.

GSM8K is the best known set of this form; any rows of question and answer will do.

Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from data_pipes.answers import match
from data_pipes.answers.match import QuestionAnswer
from data_pipes.tokenizer.spec import Tokenizer
from pure.generation.stepper import Stepper
from pure.types import Model, Tree
from stages.evaluate.completion import CompleteFn, Decoding, complete, describe_decoding
from stages.evaluate.request import encode_text
from stages.evaluate.task import Figure, Sample, Task, digest, mean
from stages.models.text_prompt import default_prefix

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
"""Judges by answer format, and then by name; of several, the first one gives the score."""

GSM8K_STOPS = ("Question:", "</s>", "<|im_end|>")
"""Texts that end an answer in the plain format: the next question, or an end of the turn."""


def plain_prompt(question: str) -> str:
    """Return GSM8K's prompt, as lm-evaluation-harness writes it."""
    return f"Question: {question}\nAnswer:"


def exact_match(
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
    """Build the task that answers questions and counts the right answers.

    Args:
        model: gives `decode` and `cache`.
        params: the model's parameters.
        tokenizer: the model's tokenizer.
        rows: questions and their correct answers.
        decoding: sampling settings and stop texts of the answers.
        judges: judges by name; the first one's verdict is the score.
        examples: shown before each question with their answers; only in the plain format.
        encode: question -> ids of the prompt, such as a chat's; None is the plain format,
            "Question: ...\\nAnswer:".
        form: description of the prompt format, saved in `about`: "plain", or a chat template's text.
        compile: as in `pure.generation.generate.generate`.
        name: name of the task in the results.
        chunk: questions that are answered in one batch.

    Returns:
        Task with the figures "exact_match/JUDGE", one per judge.

    Raises:
        ValueError: if examples are given with another format.
    """
    if examples and encode is not None:
        raise ValueError(
            f"{name}: examples are shown in the plain format only; drop the examples, or the chat's `encode`"
        )
    examples_text = "".join(f"{plain_prompt(row.question)} {row.answer}\n\n" for row in examples)
    if encode is None:
        encode = partial(
            _encode_plain, tokenizer=tokenizer, examples_text=examples_text, prefix=default_prefix(model)
        )
    about = {"task": "exact_match", "before": examples_text, "form": form, "judges": sorted(judges)}
    return Task(
        name=name,
        ids=[row.name for row in rows],
        answer=partial(
            _answer,
            rows,
            tokenizer=tokenizer,
            encode=encode,
            complete_fn=partial(complete, model, params, tokenizer, decoding=decoding, compile=compile),
            judges=judges,
        ),
        summary=partial(summarize, judges=tuple(judges)),
        about={**about, **describe_decoding(decoding)},
        chunk=chunk,
        digests=[digest(row.question, row.answer) for row in rows],
    )


def summarize(samples: Sequence[Sample], *, judges: Sequence[str]) -> dict[str, Figure]:
    """Return the share of right answers by each judge: "exact_match/JUDGE"."""
    return {f"exact_match/{judge}": mean([float(s["verdicts"][judge]) for s in samples]) for judge in judges}


def _encode_plain(
    question: str, *, tokenizer: Tokenizer, examples_text: str, prefix: int | None
) -> list[int]:
    """Encode a question in the plain format, after the examples."""
    return encode_text(tokenizer, examples_text + plain_prompt(question), prefix=prefix)


def _answer(
    rows: Sequence[QuestionAnswer],
    numbers: Sequence[int],
    *,
    tokenizer: Tokenizer,
    encode: Callable[[str], Sequence[int]],
    complete_fn: CompleteFn,
    judges: Mapping[str, Judge],
) -> list[Sample]:
    """Answer a chunk of questions in one batch."""
    chosen = [rows[i] for i in numbers]
    prompts = [encode(row.question) for row in chosen]
    completions = complete_fn(prompts, [(i, 0) for i in numbers])
    samples: list[Sample] = []
    for row, ids, completion in zip(chosen, prompts, completions, strict=True):
        verdicts = {name: judge(completion.text, row.answer) for name, judge in judges.items()}
        samples.append(
            {
                "question": row.question,
                "prompt": tokenizer.decode(list(ids)),
                "output": completion.text,
                "target": row.answer,
                "score": float(next(iter(verdicts.values()))),
                "verdicts": verdicts,
                "ended": completion.ended,
                "dropped": completion.dropped,
            }
        )
    return samples
