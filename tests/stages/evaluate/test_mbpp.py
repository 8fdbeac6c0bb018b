"""`mbpp`: rows as published, their prompts, and verdicts on right and wrong programs."""

from __future__ import annotations

import pytest

from data_pipes.types import Row
from stages.evaluate import humaneval, mbpp
from stages.evaluate.programs import chat_format, question_text
from stages.sandbox import sandbox

FULL = {
    "task_id": 11, "text": "Write a python function to remove first occurrence of a character.",
    "code": "def helper(s): return s\r\ndef remove(s, ch):\r\n  return helper(s).replace(ch, '', 1)",
    "test_list": ["assert remove(\"hello\",\"l\") == \"helo\"", "assert remove(\"aa\",\"a\") == \"a\""],
    "test_setup_code": "", "challenge_test_list": [],
}  # fmt: skip
SANITIZED = {
    "task_id": 3, "prompt": "Write a function for a root.", "code": "import math\ndef root(x):\n  return math.sqrt(x)",
    "test_imports": ["import math"], "test_list": ["assert math.isclose(root(2), math.sqrt(2), rel_tol=0.001)"],
}  # fmt: skip
ISOLATION = sandbox.probe()
isolated = pytest.mark.skipif(not ISOLATION.complete, reason=ISOLATION.line)


@isolated
@pytest.mark.parametrize("row", [FULL, SANITIZED], ids=["full", "sanitized"])
def test_the_reference_program_passes_and_a_constant_fails(row: dict) -> None:
    (problem,) = mbpp.read_problems([Row(row, "m:1")])
    program_format = chat_format(lambda text: [1], name="chat")
    right_program = program_format.program(problem, f"[PYTHON] of course:\n```python\n{row['code']}\n```\n")
    wrong_program = program_format.program(
        problem, f"```python\ndef {problem.entry_point}(*_):\n    return 0\n```"
    )
    assert humaneval.check_program(problem, right_program, timeout=20, isolation=ISOLATION).status == "ok"
    assert humaneval.check_program(problem, wrong_program, timeout=20, isolation=ISOLATION).status == "wrong"


def test_a_prompt_has_the_wording_of_the_paper() -> None:
    (problem,) = mbpp.read_problems([Row(FULL, "m:1")])
    assert (problem.name, problem.entry_point) == ("MBPP/11", "remove")
    assert question_text(problem).startswith(
        "You are an expert Python programmer, and here is your task: Write a python"
    )
    assert FULL["test_list"][1] in question_text(problem)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_list": []}, "a list of asserts"),
        ({"test_list": "assert"}, "a list of asserts"),
        ({"code": "x = 1"}, "call no function"),
        ({"text": None}, "expected a string in prompt, got NoneType"),
    ],
)
def test_a_row_of_another_form_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=rf"m:1: .*{message}"):
        mbpp.read_problems([Row({**FULL, **change}, "m:1")])
