"""Multiple choice: which answer a model finds the most probable. MMLU, ARC, HellaSwag, and any set of their
shape.

Nothing is generated: each answer's log-likelihood after the question is computed, and the largest is the
model's.

Hendrycks et al., "Measuring Massive Multitask Language Understanding", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from data_pipes.choices import LETTERS, Question, Questions, few_shot
from data_pipes.tokenizer.spec import Tokenizer
from pure.types import Model, Tree
from stages.evaluate.likelihood import TOKENS, Likelihood, log_likelihoods
from stages.evaluate.request import beginning, encode_pairs
from stages.evaluate.task import Figure, Report, Sample, Task, digest, finish, mean

GROUPS: Mapping[str, str] = {
    "stem": "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science "
    "college_mathematics college_physics computer_security conceptual_physics electrical_engineering "
    "elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
    "high_school_mathematics high_school_physics high_school_statistics machine_learning",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history "
    "international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory "
    "professional_law world_religions",
    "social_sciences": "econometrics high_school_geography high_school_government_and_politics "
    "high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality "
    "professional_psychology public_relations security_studies sociology us_foreign_policy",
    "other": "business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing "
    "medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology",
}
"""MMLU's subjects, as lm-evaluation-harness groups them."""


class Style(NamedTuple):
    """How a question becomes a prompt.

    Fields:
        text: Question -> the prompt up to the answer.
        endings: Question -> what is scored after it, one text a choice.
        description: before everything else; "{subject}" stands for the subject's words.
    """

    text: Callable[[Question], str]
    endings: Callable[[Question], Sequence[str]]
    description: str = ""


def _lettered(question: Question) -> str:
    """MMLU's form: the choices by letter."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)]
    return "\n".join([question.question.strip(), *lines, "Answer:"])


def _letters(question: Question) -> list[str]:
    """What answers MMLU's form."""
    return [f" {letter}" for letter in LETTERS[: len(question.choices)]]


def _asked(question: Question) -> str:
    """ARC's form: the choices are not shown."""
    return f"Question: {question.question}\nAnswer:"


def _begun(question: Question) -> str:
    """HellaSwag's form: a text to go on with."""
    return question.question


def _written(question: Question) -> list[str]:
    """The choices themselves, after a space."""
    return [f" {choice}" for choice in question.choices]


STYLES: Mapping[str, Style] = {
    "letter": Style(_lettered, _letters, "The following are multiple choice questions (with answers) about {subject}."
                    "\n\n"),
    "answer": Style(_asked, _written),
    "continue": Style(_begun, _written),
}  # fmt: skip
"""MMLU's, ARC's and HellaSwag's prompts, each as lm-evaluation-harness writes it."""


def mmlu(model: Model, params: Tree, tokenizer: Tokenizer, questions: Questions, **options: Any) -> Report:
    """Asks multiple-choice questions.

        prediction      = argmax_c log p(ending_c | prompt)
        prediction_norm = argmax_c log p(ending_c | prompt) / characters(choice_c)

    Args:
        model, params, tokenizer, questions, options: see `task`.

    Returns:
        Report: "acc" over all questions (micro average), "acc_macro" over subjects (the mean of their means),
        "acc/GROUP" of MMLU's groups, "acc/SUBJECT"; where the choices themselves are scored also "acc_norm".
        One sample a question.

    Raises:
        ValueError: for an unknown style, too few examples, or without questions.

    Source: Hendrycks et al. 2021, section 3; prompts and normalisation as lm-evaluation-harness.
    """
    return finish(task(model, params, tokenizer, questions, **options))


def task(
    model: Model,
    params: Tree,
    tokenizer: Tokenizer,
    questions: Questions,
    *,
    shots: int = 5,
    style: str = "letter",
    tokens: int = TOKENS,
    share: bool = True,
    prefix: int | None = None,
    name: str = "mmlu",
) -> Task:
    """Prepares `mmlu` as a Task.

    Args:
        model: see `stages.evaluate.likelihood.log_likelihoods`.
        params: the model's.
        tokenizer: that both were made with.
        questions: to ask, and the examples to show before them.
        shots: examples before each question, the first ones of its subject.
        style: of STYLES: "letter" shows the choices and scores their letters; "answer" and "continue" score
            the choices.
        tokens: to read at a time, about.
        share: read what prompts have in common once.
        prefix: id that documents begin with, for an empty question; None takes the model's bos token, or its
            eos token.
        name: what results call it.

    Returns:
        Task, one item a question, those of a subject together.

    Raises:
        ValueError: for an unknown style, or too few examples.
    """
    if style not in STYLES:
        raise ValueError(f"{name}: style must be one of {', '.join(STYLES)}, got {style!r}")
    asked = sorted(questions.test, key=lambda question: question.subject)
    before = {
        subject: preamble(questions, subject, shots, STYLES[style]) for subject in {q.subject for q in asked}
    }
    reading = partial(
        _answer,
        model=model,
        params=params,
        tokenizer=tokenizer,
        asked=asked,
        before=before,
        style=STYLES[style],
        tokens=tokens,
        share=share,
        prefix=beginning(model) if prefix is None else prefix,
    )
    about = {"task": "mmlu", "style": style, "shots": shots, "before": dict(sorted(before.items()))}
    adding = partial(summary, normalised=style != "letter")
    items = [digest(q.question, q.choices, q.answer, q.subject) for q in asked]
    return Task(name, [question.name for question in asked], reading, adding, about, 64, items)


def preamble(questions: Questions, subject: str, shots: int, style: Style) -> str:
    """Writes what stands before every question of a subject: the description, and the examples with their
    answers.

    Args:
        questions: whose `dev` has the examples.
        subject: as the questions have it.
        shots: how many.
        style: of STYLES.

    Returns:
        A text that ends with a blank line, or "".

    Raises:
        ValueError: if the subject has too few examples.

    Example:
        >>> example = Question("1 + 1?", ("1", "2"), 1, "sums", "dev:1")
        >>> print(preamble(Questions([], {"sums": [example]}, "here"), "sums", 1, STYLES["answer"]), end="")
        Question: 1 + 1?
        Answer: 2
        <BLANKLINE>
    """
    shown = [
        style.text(q) + style.endings(q)[q.answer]
        for q in (few_shot(questions, subject, shots) if shots else [])
    ]
    words = style.description.format(subject=subject.replace("_", " "))
    return words + "".join(text + "\n\n" for text in shown)


def summary(samples: Sequence[Sample], *, normalised: bool) -> dict[str, Figure]:
    """Averages over questions, subjects and groups.

    Args:
        samples: with "subject", "score" and "score_norm".
        normalised: whether "acc_norm" is wanted.

    Returns:
        Figures; the standard error of a mean of means is that of independent ones.
    """
    subjects = sorted({sample["subject"] for sample in samples})
    each = {subject: mean([s["score"] for s in samples if s["subject"] == subject]) for subject in subjects}
    found = {"acc": mean([s["score"] for s in samples])}
    if normalised:
        found["acc_norm"] = mean([s["score_norm"] for s in samples])
    if len(subjects) > 1:
        spread = math.sqrt(math.fsum(figure.stderr**2 for figure in each.values())) / len(each)
        found["acc_macro"] = Figure(math.fsum(f.value for f in each.values()) / len(each), spread, len(each))
        for group, members in GROUPS.items():
            if inside := [s["score"] for s in samples if s["subject"] in members.split()]:
                found[f"acc/{group}"] = mean(inside)
        found |= {f"acc/{subject}": figure for subject, figure in each.items()}
    return found


def _answer(
    numbers: Sequence[int],
    *,
    model: Model,
    params: Tree,
    tokenizer: Tokenizer,
    asked: Sequence[Question],
    before: Mapping[str, str],
    style: Style,
    tokens: int,
    share: bool,
    prefix: int | None,
) -> list[Sample]:
    """A chunk of questions: all their endings at once."""
    chosen = [asked[i] for i in numbers]
    prompts = [before[question.subject] + style.text(question) for question in chosen]
    requests = [
        encode_pairs(tokenizer, prompt, style.endings(question), prefix=prefix)
        for prompt, question in zip(prompts, chosen, strict=True)
    ]
    found = iter(
        log_likelihoods(model, params, [r for part in requests for r in part], tokens=tokens, share=share)
    )
    return [
        _sample(question, prompt, style, [next(found) for _ in part])
        for question, prompt, part in zip(chosen, prompts, requests, strict=True)
    ]


def _sample(question: Question, prompt: str, style: Style, found: Sequence[Likelihood]) -> Sample:
    """What is kept of a question; of equal likelihoods the first counts."""
    logps = [likelihood.logp for likelihood in found]
    shares = [logp / max(1, len(choice)) for logp, choice in zip(logps, question.choices, strict=True)]
    best, best_norm = logps.index(max(logps)), shares.index(max(shares))
    endings = style.endings(question)
    return {
        "prompt": prompt,
        "output": endings[best],
        "target": endings[question.answer],
        "score": float(best == question.answer),
        "score_norm": float(best_norm == question.answer),
        "subject": question.subject,
        "logps": logps,
        "dropped": max(likelihood.dropped for likelihood in found),
    }
