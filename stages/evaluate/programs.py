"""Problems whose answers are programs: how they are asked, and how the program is found in what a model
writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from data_pipes.answers import code
from data_pipes.tokenizer.spec import Tokenizer
from stages.evaluate.request import encode_text


class Problem(NamedTuple):
    """A function to be written.

    Fields:
        name: "HumanEval/0".
        prompt: imports, helpers, signature and docstring: the program begins with it; "" where the task has
            none.
        entry_point: the function's name.
        test: source that defines `check(candidate)`, which raises where the candidate is wrong.
        question: how it is asked where the prompt does not say it.
        setup: source that program and tests both need before them.
    """

    name: str
    prompt: str
    entry_point: str
    test: str
    question: str = ""
    setup: str = ""


class Way(NamedTuple):
    """A way to ask problems.

    Fields:
        encode: problem -> ids of the whole prompt.
        program: (problem, output) -> the source that is tested.
        form: what records call it; "" is the benchmark's own.
    """

    encode: Callable[[Problem], Sequence[int]]
    program: Callable[[Problem, str], str]
    form: str = ""


def continued(tokenizer: Tokenizer, *, prefix: int | None) -> Way:
    """The prompt is continued, and prompt and continuation are the program (Chen et al. 2021).

    Args:
        tokenizer: of the model.
        prefix: id that a text begins with, from `stages.evaluate.request.beginning`.
    """
    return Way(partial(_continue, tokenizer=tokenizer, prefix=prefix), _append)


def asked(encode: Callable[[str], Sequence[int]], *, form: str) -> Way:
    """The problem is a question, and the program is looked for in the answer (`data_pipes.answers.code`).

    Args:
        encode: question -> ids, such as a chat's.
        form: what records call it, such as a chat template's text.
    """
    return Way(partial(_ask, encode=encode), _find, form)


def question(problem: Problem) -> str:
    """Words a problem as a question.

    Example:
        >>> print(question(Problem("a", "def f(x):\\n", "f", "")))
        Complete this Python function. Answer with the whole function in one code block.
        <BLANKLINE>
        ```python
        def f(x):
        ```
    """
    if problem.question:
        return problem.question
    return (
        "Complete this Python function. Answer with the whole function in one code block.\n\n"
        f"```python\n{problem.prompt.rstrip()}\n```"
    )


def _continue(problem: Problem, *, tokenizer: Tokenizer, prefix: int | None) -> Sequence[int]:
    """The ids of the prompt."""
    return encode_text(tokenizer, problem.prompt or problem.question, prefix=prefix)


def _append(problem: Problem, output: str) -> str:
    """Prompt and continuation; without a prompt, the program in the output."""
    return problem.prompt + output if problem.prompt else _find(problem, output)


def _ask(problem: Problem, *, encode: Callable[[str], Sequence[int]]) -> Sequence[int]:
    """The ids of the question."""
    return encode(question(problem))


def _find(problem: Problem, output: str) -> str:
    """The program in an answer, after what it needs."""
    found = code.extract_program(output, entry_point=problem.entry_point, prompt=problem.prompt)
    return f"{problem.setup}\n{found}" if problem.setup else found
