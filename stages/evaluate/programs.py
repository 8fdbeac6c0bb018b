"""Problems whose answers are programs, and the formats of their prompts and answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from data_pipes.answers import code
from data_pipes.tokenizer.spec import Tokenizer
from stages.evaluate.request import encode_text


class Problem(NamedTuple):
    """A function to write.

    Fields:
        name: such as "HumanEval/0".
        prompt: imports, helpers, signature and docstring that the program begins with; "" if there is none.
        entry_point: the function's name.
        test: source that defines `check(candidate)`, which raises if the candidate is wrong.
        question: text of the question, for a problem without a prompt.
        setup: source that runs before the program, and before the tests.
    """

    name: str
    prompt: str
    entry_point: str
    test: str
    question: str = ""
    setup: str = ""


class ProgramFormat(NamedTuple):
    """Format of a problem's prompt and of the model's answer.

    Fields:
        encode: problem -> ids of the prompt.
        program: (problem, output) -> the source that is tested.
        name: name of the format in the results; "" is the benchmark's own format.
    """

    encode: Callable[[Problem], Sequence[int]]
    program: Callable[[Problem, str], str]
    name: str = ""


def completion_format(tokenizer: Tokenizer, *, prefix: int | None) -> ProgramFormat:
    """Return the format in which the model continues the prompt (Chen et al. 2021).

    Args:
        tokenizer: the model's tokenizer.
        prefix: id that a text begins with, from `stages.models.text_prompt.prefix_token`.
    """
    return ProgramFormat(partial(_encode_prompt, tokenizer=tokenizer, prefix=prefix), _append_output)


def chat_format(encode: Callable[[str], Sequence[int]], *, name: str) -> ProgramFormat:
    """Return the format that asks for a program and extracts it from the answer (`data_pipes.answers.code`).

    Args:
        encode: question -> ids, such as a chat's.
        name: name of the format in the results, such as a chat template's text.
    """
    return ProgramFormat(partial(_encode_question, encode=encode), _extract_program, name)


def question_text(problem: Problem) -> str:
    """Return a problem as a question.

    Example:
        >>> print(question_text(Problem("a", "def f(x):\\n", "f", "")))
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


def _encode_prompt(problem: Problem, *, tokenizer: Tokenizer, prefix: int | None) -> Sequence[int]:
    """Encode the prompt."""
    return encode_text(tokenizer, problem.prompt or problem.question, prefix=prefix)


def _append_output(problem: Problem, output: str) -> str:
    """Return prompt and continuation; without a prompt, the program in the output."""
    return problem.prompt + output if problem.prompt else _extract_program(problem, output)


def _encode_question(problem: Problem, *, encode: Callable[[str], Sequence[int]]) -> Sequence[int]:
    """Encode the question."""
    return encode(question_text(problem))


def _extract_program(problem: Problem, output: str) -> str:
    """Return the program in an answer, after its setup."""
    program = code.extract_program(output, entry_point=problem.entry_point, prompt=problem.prompt)
    return f"{problem.setup}\n{program}" if problem.setup else program
