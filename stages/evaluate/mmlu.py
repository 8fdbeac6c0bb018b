"""Multiple choice (MMLU, ARC, HellaSwag): the model's answer is the most probable choice.

Nothing is generated: the log-likelihood of each choice after the question is computed, and the largest is the
model's answer.

Hendrycks et al., "Measuring Massive Multitask Language Understanding", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from data_pipes.choices import LETTERS, Question, Questions, few_shot
from data_pipes.tokenizer.spec import Tokenizer
from pure.types import Model, Tree
from stages.evaluate.likelihood import TOKENS, Likelihood, log_likelihoods
from stages.evaluate.request import Request, encode_pairs
from stages.evaluate.task import Figure, Sample, Task, digest, mean
from stages.models.text_prompt import default_prefix

GROUPS: Mapping[str, str] = {
    "stem": "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science "
    "college_mathematics college_physics computer_security conceptual_physics electrical_engineering "
    "elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
    "high_school_mathematics high_school_physics high_school_statistics machine_learning",
    "humanities": "formal_logic high_school_european_history high_school_us_history "
    "high_school_world_history international_law jurisprudence logical_fallacies moral_disputes "
    "moral_scenarios philosophy prehistory professional_law world_religions",
    "social_sciences": "econometrics high_school_geography high_school_government_and_politics "
    "high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality "
    "professional_psychology public_relations security_studies sociology us_foreign_policy",
    "other": "business_ethics clinical_knowledge college_medicine global_facts human_aging management "
    "marketing medical_genetics miscellaneous nutrition professional_accounting professional_medicine "
    "virology",
}
"""MMLU's subjects, as lm-evaluation-harness groups them."""


class Style(NamedTuple):
    """Format of a question's prompt and of the texts that are scored after it.

    Fields:
        prompt: Question -> the prompt up to the answer.
        continuations: Question -> the texts that are scored after it, one per choice.
        description: first line of the prompt; "{subject}" is replaced by the subject.
    """

    prompt: Callable[[Question], str]
    continuations: Callable[[Question], Sequence[str]]
    description: str = ""


def _letter_prompt(question: Question) -> str:
    """MMLU's format: the choices with their letters."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)]
    return "\n".join([question.question.strip(), *lines, "Answer:"])


def _letters(question: Question) -> list[str]:
    """The letters of the choices, after a space."""
    return [f" {letter}" for letter in LETTERS[: len(question.choices)]]


def _answer_prompt(question: Question) -> str:
    """ARC's format: the choices are not shown."""
    return f"Question: {question.question}\nAnswer:"


def _continue_prompt(question: Question) -> str:
    """HellaSwag's format: the beginning of a text."""
    return question.question


def _choices(question: Question) -> list[str]:
    """The choices themselves, after a space."""
    return [f" {choice}" for choice in question.choices]


DESCRIPTION = "The following are multiple choice questions (with answers) about {subject}.\n\n"

STYLES: Mapping[str, Style] = {
    "letter": Style(_letter_prompt, _letters, DESCRIPTION),
    "answer": Style(_answer_prompt, _choices),
    "continue": Style(_continue_prompt, _choices),
}
"""Formats of MMLU, ARC and HellaSwag, each as lm-evaluation-harness writes it."""


def mmlu(
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
    """Build the task that answers multiple-choice questions by the most probable choice.

        prediction      = argmax_c log p(continuation_c | prompt)
        prediction_norm = argmax_c log p(continuation_c | prompt) / characters(choice_c)

    Args:
        model: see `stages.evaluate.likelihood.log_likelihoods`.
        params: the model's parameters.
        tokenizer: the model's tokenizer.
        questions: the questions to answer, and the few-shot examples.
        shots: number of few-shot examples before each question, the first ones of its subject.
        style: a name of STYLES: "letter" shows the choices and scores their letters; "answer" and "continue"
            score the choices.
        tokens: number of tokens per forward pass, approximately.
        share: read a prefix that several prompts share only once.
        prefix: token id that documents begin with, for an empty prompt; None takes the model's bos token, or
            else its eos token.
        name: name of the task in the results.

    Returns:
        Task with the figures "acc" over all questions (micro average), "acc_macro" over subjects (the mean of
        their means), "acc/GROUP" of MMLU's groups, "acc/SUBJECT"; also "acc_norm"
        where the choices themselves are scored.

    Raises:
        ValueError: for an unknown style, or too few examples.

    Source: Hendrycks et al. 2021, section 3; prompts and normalisation as lm-evaluation-harness.
    """
    if style not in STYLES:
        raise ValueError(f"{name}: style must be one of {', '.join(STYLES)}, got {style!r}")
    chosen, rows = STYLES[style], sorted(questions.test, key=lambda question: question.subject)
    subjects = {question.subject for question in rows}
    preambles = {subject: preamble(questions, subject, shots, chosen) for subject in subjects}
    prefix = default_prefix(model) if prefix is None else prefix
    return Task(
        name=name,
        ids=[question.name for question in rows],
        answer=partial(
            _answer,
            rows,
            preambles=preambles,
            style=chosen,
            encode=partial(encode_pairs, tokenizer, prefix=prefix),
            score_fn=partial(log_likelihoods, model, params, tokens=tokens, share=share),
        ),
        summary=partial(summarize, normalised=style != "letter"),
        about={"task": "mmlu", "style": style, "shots": shots, "before": dict(sorted(preambles.items()))},
        chunk=64,
        digests=[digest(q.question, q.choices, q.answer, q.subject) for q in rows],
    )


def preamble(questions: Questions, subject: str, shots: int, style: Style) -> str:
    """Return the text before every question of a subject: the description, and the examples with answers.

    Args:
        questions: their `dev` holds the examples.
        subject: subject of the questions.
        shots: number of examples.
        style: prompt format, one of STYLES.

    Returns:
        Text that ends with a blank line, or "".

    Raises:
        ValueError: if the subject has too few examples.

    Example:
        >>> example = Question("1 + 1?", ("1", "2"), 1, "sums", "dev:1")
        >>> print(preamble(Questions([], {"sums": [example]}, "here"), "sums", 1, STYLES["answer"]), end="")
        Question: 1 + 1?
        Answer: 2
        <BLANKLINE>
    """
    examples = few_shot(questions, subject, shots) if shots else []
    shown = [style.prompt(q) + style.continuations(q)[q.answer] + "\n\n" for q in examples]
    return style.description.format(subject=subject.replace("_", " ")) + "".join(shown)


def summarize(samples: Sequence[Sample], *, normalised: bool) -> dict[str, Figure]:
    """Average over questions, subjects and groups.

    The mean over questions gives a subject with many of them more weight; the mean of the subjects' means
    gives each the same.

        acc_macro = Σ_s mean_s / S,     stderr = √(Σ_s stderr_s²) / S,     S subjects

    Args:
        samples: samples with "subject", "score" and "score_norm".
        normalised: include "acc_norm".

    Returns:
        {name: Figure}, in the order of the steps; the standard error of "acc_macro" takes the means of the
        subjects as independent, and its count is S.

    Steps:
        1. "acc", the `mean` of the scores; if normalised, "acc_norm" of "score_norm".
        2. Scores by subject, subjects in alphabetical order. With fewer than two subjects this is all.
        3. "acc_macro" from the `mean` of each subject, sums by `math.fsum`.
        4. "acc/GROUP" for each group of `GROUPS` (names of subjects between spaces) that has a question, over
            its questions.
        5. "acc/SUBJECT" for each subject.

    Edge cases: a subject of one question has the error NaN, and so has "acc_macro".

    Example:
        Subject a has 1 of 1 right, b 1 of 3.

        >>> rows = [("a", 1.0), ("b", 1.0), ("b", 0.0), ("b", 0.0)]
        >>> figures = summarize([{"subject": s, "score": x} for s, x in rows], normalised=False)
        >>> {name: round(figure.value, 4) for name, figure in figures.items()}
        {'acc': 0.5, 'acc_macro': 0.6667, 'acc/a': 1.0, 'acc/b': 0.3333}

    Source: Hendrycks et al. 2021, section 4; lm-evaluation-harness for the groups.
    """
    # 1. All questions.
    figures = {"acc": mean([s["score"] for s in samples])}
    if normalised:
        figures["acc_norm"] = mean([s["score_norm"] for s in samples])
    # 2. Subjects.
    by_subject: dict[str, list[float]] = {}
    for sample in sorted(samples, key=lambda sample: sample["subject"]):
        by_subject.setdefault(sample["subject"], []).append(sample["score"])
    if len(by_subject) < 2:
        return figures
    # 3. Macro average.
    means = {subject: mean(scores) for subject, scores in by_subject.items()}
    stderr = math.sqrt(math.fsum(figure.stderr**2 for figure in means.values())) / len(means)
    macro = math.fsum(figure.value for figure in means.values()) / len(means)
    figures["acc_macro"] = Figure(macro, stderr, len(means))
    # 4. Groups.
    for group, members in GROUPS.items():
        scores = [sample["score"] for sample in samples if sample["subject"] in members.split()]
        if scores:
            figures[f"acc/{group}"] = mean(scores)
    # 5. Subjects.
    return figures | {f"acc/{subject}": figure for subject, figure in means.items()}


def _answer(
    questions: Sequence[Question],
    numbers: Sequence[int],
    *,
    preambles: Mapping[str, str],
    style: Style,
    encode: Callable[[str, Sequence[str]], list[Request]],
    score_fn: Callable[[Sequence[Request]], list[Likelihood]],
) -> list[Sample]:
    """Score a chunk of questions, all their continuations together."""
    chosen = [questions[i] for i in numbers]
    prompts = [preambles[question.subject] + style.prompt(question) for question in chosen]
    requests = [
        encode(prompt, style.continuations(question))
        for prompt, question in zip(prompts, chosen, strict=True)
    ]
    scores = iter(score_fn([request for part in requests for request in part]))
    return [
        _sample(question, prompt, style, [next(scores) for _ in part])
        for question, prompt, part in zip(chosen, prompts, requests, strict=True)
    ]


def _sample(question: Question, prompt: str, style: Style, scores: Sequence[Likelihood]) -> Sample:
    """Return the sample of a question: the most probable choice is the model's answer.

    A long choice has a low log-probability for its length alone. Where the choices themselves are scored, the
    log-probability per character is compared too.

        best = argmax_c logp_c,     best_norm = argmax_c logp_c / characters(choice_c)

    Args:
        question: with `choices`, the index `answer` of the right one, and `subject`.
        prompt: text before the choices.
        style: its `continuations(question)` are the texts that were scored, one per choice.
        scores: one Likelihood per choice.

    Returns:
        {"prompt", "output": continuation of the best choice, "target": that of the right one, "score": 1.0 if
        best is right, else 0.0, "score_norm": likewise of best_norm, "subject", "logps": list of the scores'
        logp, "dropped": the largest of the scores'}.

    Steps:
        1. Log-probabilities of the choices, and the same divided by the characters of the choice (not of the
            continuation), at least 1.
        2. Index of the largest of each; of equal ones the first.
        3. The sample.

    Edge cases: an empty choice counts as one character.

    Example:
        The short choice is likelier, the long one likelier per character: -6 / 12 against -2 / 1.

        >>> question = Question("Say", ("a", "abcdefghijkl"), 1, "words", "test:1")
        >>> scores = [Likelihood(-2.0, False), Likelihood(-6.0, False)]
        >>> sample = _sample(question, "Say", STYLES["continue"], scores)
        >>> sample["output"], sample["score"], sample["score_norm"]
        (' a', 0.0, 1.0)

    Source: lm-evaluation-harness, `acc` and `acc_norm`.
    """
    # 1. Log-probabilities.
    logps = [score.logp for score in scores]
    normalised = [logp / max(1, len(choice)) for logp, choice in zip(logps, question.choices, strict=True)]
    # 2. Answers.
    best, best_norm = logps.index(max(logps)), normalised.index(max(normalised))
    # 3. Sample.
    continuations = style.continuations(question)
    return {
        "prompt": prompt,
        "output": continuations[best],
        "target": continuations[question.answer],
        "score": float(best == question.answer),
        "score_norm": float(best_norm == question.answer),
        "subject": question.subject,
        "logps": logps,
        "dropped": max(score.dropped for score in scores),
    }
