"""`extract_program` finds the code in a model's answer, whatever text surrounds it."""

from __future__ import annotations

import ast
import textwrap
import time

import pytest

from data_pipes.answers.code import complete_prompt, extract_program

PROMPT = "import math\n\n\ndef area(r):\n    '''Area of a circle.\n\n    >>> area(0)\n    0.0\n    '''\n"
BODY = "    square = r * r\n\n    return math.pi * square\n"
WHOLE = PROMPT + BODY
ANSWERS = {
    "fence": f"```python\n{WHOLE}```",
    "fence of no language": f"```\n{WHOLE}```",
    "fence of tildes": f"~~~py\n{WHOLE}~~~\nDone.",
    "fence that is not closed": f"```python\n{WHOLE}",
    "fence in a list": "1. So:\n" + textwrap.indent(f"```python\n{WHOLE}```", "   "),
    "prose before and after": f"Sure, 1 < 2:\n\n```python\n{WHOLE}```\n\nIt works.",
    "usage example after the program": f"```python\n{WHOLE}```\nTry it:\n```python\nprint(area(input()))\n```\n"
    "Output:\n```\n3.14\n```",
    "a block in another language before it": f"```bash\npip install x\n```\n```python\n{WHOLE}```",
    "thoughts": f"<think>\n```python\ndef area(r): return 0\n```\n</think>\n```python\n{WHOLE}```",
    "thoughts opened by the prompt": f"Hm.\n</think>\n\n{WHOLE}",
    "no fence": WHOLE,
    "no fence, prose around": f"Here it is:\n\n{WHOLE}\nI hope this helps.\n",
    "without the imports of the prompt": f"```python\ndef area(r):\n{BODY}```",
    "body alone": BODY,
    "body in a fence": f"```python\n{BODY}```",
    "body in a fence, not indented": f"```python\n{textwrap.dedent(BODY)}```",
    "first wrong, then right": f"```python\ndef area(r):\n    return r\n```\nBetter:\n```python\n{WHOLE}```",
    "a helper in a block of its own": "```python\ndef sq(x):\n    return x * x\n```\n```python\ndef area(r):\n"
    "    return math.pi * sq(r)\n```",
    "a lambda": "```python\narea = lambda r: math.pi * r * r\n```",
    "a future import": f"```python\nfrom __future__ import annotations\n{WHOLE}```",
    "control lines": f"```python\n{WHOLE}```".replace("\n", "\r\n"),
}


@pytest.mark.parametrize("answer_form", ANSWERS)
def test_the_program_is_extracted_from_every_form_of_answer(answer_form: str) -> None:
    namespace: dict = {}
    exec(extract_program(ANSWERS[answer_form], entry_point="area", prompt=PROMPT), namespace)
    assert round(namespace["area"](2), 4) == 12.5664


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I cannot.",
        "<think> it never ends ```python\ndef area(r): return 1\n```",
        "```python\n```",
        "def (",
    ],
)
def test_an_answer_without_a_program_yields_one_that_returns_nothing(answer: str) -> None:
    program = extract_program(answer, entry_point="area", prompt=PROMPT)
    assert "return" not in program
    assert program.startswith(PROMPT)


def test_without_a_prompt_the_code_block_is_the_program() -> None:
    assert (
        extract_program("```python\ndef f(x):\n    return '\\d'\n```", entry_point="f")
        == "def f(x):\n    return '\\d'"
    )


def test_a_prompt_is_completed_to_valid_python() -> None:
    """A signature without a body gets one; a prompt that is no Python stays as it is."""
    for prompt in (
        "def f(x):\n",
        "def f(x):  # doubles\n",
        'def f(x):\n\t"""What."""\n',
        "import os\n\ndef f(x): # a:\n",
    ):
        ast.parse(complete_prompt(prompt))
    assert complete_prompt("def f(:") == "def f(:"


def test_prose_that_looks_like_code_is_parsed_quickly() -> None:
    before, after = ("".join(f"x{i} = {word} prose {i}\n" for i in range(500)) for word in ("some", "more"))
    start = time.process_time()
    program = extract_program(f"{before}def f(x):\n    return x\n{after}", entry_point="f")
    assert program.strip() == "def f(x):\n    return x"
    assert time.process_time() - start < 3
