"""`humaneval`: reading problems, and verdicts on a model's programs."""

from __future__ import annotations

import pytest

from data_pipes.source import path as source
from data_pipes.types import Row
from pure.generation.sampling import Sampling
from stages.evaluate import humaneval
from stages.evaluate.completion import Completion, Decoding
from stages.evaluate.humaneval import Problem, check_program, read_problems
from stages.evaluate.programs import chat_format
from stages.evaluate.task import run_task
from stages.sandbox import sandbox
from stages.sandbox.sandbox import Isolation, Outcome, SandboxMissingError
from tests.stages.evaluate.small_model import small_model

DOUBLE = Problem("T/0", "def double(x):\n", "double", "def check(f):\n    assert f(2) == 4\n")
ISOLATION = sandbox.probe()
isolated = pytest.mark.skipif(not ISOLATION.complete, reason=ISOLATION.line)


def check(problem: Problem, completion: str, timeout: float = humaneval.TIMEOUT) -> Outcome:
    """Run a problem's tests on a completion of its prompt."""
    return check_program(problem, problem.prompt + completion, timeout=timeout, isolation=ISOLATION)


def test_the_installed_package_has_164_problems() -> None:
    found = read_problems(source.rows(humaneval.installed_path()))
    assert len(found) == len({problem.name for problem in found}) == 164
    assert found[0].entry_point == "has_close_elements"


def test_a_problem_without_tests_is_refused_by_name() -> None:
    row = Row({"task_id": "a", "prompt": "def f():", "entry_point": "f"}, "mine.jsonl:3")
    with pytest.raises(ValueError, match=r"mine.jsonl:3: expected a string in test, got NoneType"):
        read_problems([row])
    bad: list = []
    assert read_problems([row], on_bad=bad.append) == []
    assert bad[0].name == "mine.jsonl:3"


@isolated
def test_each_way_to_fail_has_its_status_and_reason() -> None:
    found = {
        text: check(DOUBLE, text, timeout=1.0 if "while" in text else 20.0)
        for text in (
            "    return x + x",
            "    return x",
            "    while True: pass",
            "    return 1 / 0",
            "    return (",
        )
    }
    assert [outcome.status for outcome in found.values()] == ["ok", "wrong", "timeout", "error", "syntax"]
    assert "ZeroDivisionError" in found["    return 1 / 0"].reason
    assert "assert f(2) == 4" in found["    return x"].reason


@isolated
def test_pass_at_k_is_computed_from_the_completions_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four samples one is right: pass@1 is 1/4, pass@4 is 1."""

    def fake_complete(
        model: object,
        params: object,
        tokenizer: object,
        prompts: list,
        numbers: list,
        decoding: object,
        **rest: object,
    ) -> list[Completion]:
        return [
            Completion("    return x * 2" if sample == 2 else "    return 0", 0, True)
            for _, sample in numbers
        ]

    monkeypatch.setattr(humaneval, "complete", fake_complete)
    problems = [DOUBLE, DOUBLE._replace(name="T/1")]
    report = run_task(humaneval.humaneval(*small_model()[:3], problems, samples=4, ks=(1, 2, 4)))
    assert {name: figure.value for name, figure in report.figures.items()} == {
        "pass@1": 0.25,
        "pass@2": 0.5,
        "pass@4": 1.0,
    }
    assert [sample["id"] for sample in report.samples] == [f"T/{i}#{j}" for i in range(2) for j in range(4)]
    assert report.samples[2]["reason"]
    assert report.samples[0]["status"] == "wrong"


@isolated
def test_completions_of_a_random_model_are_judged_wrong() -> None:
    greedy = Decoding(Sampling(8, temperature=0.0), stop=humaneval.STOPS)
    report = run_task(humaneval.humaneval(*small_model()[:3], [DOUBLE], decoding=greedy))
    assert report.figures["pass@1"].value == 0.0
    assert report.samples[0]["status"] != "ok"


@isolated
@pytest.mark.parametrize("candidate", ["    raise StopIteration", "    return next(iter(()))"])
def test_a_candidate_that_raises_stop_iteration_does_not_pass(candidate: str) -> None:
    """`map` would end at the StopIteration, and `all` of no values is true."""
    test = "def check(f):\n    assert all(x == y for x, y in zip(map(f, [1, 2]), [2, 4]))\n"
    assert check(DOUBLE._replace(test=test), candidate).status == "error"


@isolated
@pytest.mark.parametrize(
    "test", ["def check(f):\n    assert f(1) == 4\n    yield", "async def check(f): assert 0", "x = 1"]
)
def test_a_problem_whose_tests_check_nothing_is_broken(test: str) -> None:
    assert check(DOUBLE._replace(test=test), "    return 2 * x").status == "broken"


def test_without_isolation_no_program_is_generated_or_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "probe", lambda: Isolation(False, "sandbox: missing: namespaces"))
    monkeypatch.setattr(humaneval, "complete", lambda *_, **__: pytest.fail("it wrote"))
    with pytest.raises(SandboxMissingError, match="run_untrusted_code_without_isolation"):
        humaneval.humaneval(*small_model()[:3], [DOUBLE])
    with pytest.raises(ValueError, match="k=2"):
        humaneval.humaneval(*small_model()[:3], [DOUBLE], ks=(2,))


@isolated
def test_in_a_chat_the_program_is_extracted_from_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format of `programs.chat_format`: the prompt is a chat, and its answer contains the program."""
    answers = [
        "Sure:\n```python\ndef double(x):\n    return 2 * x\n```",
        "<think>x * 2</think>    return x * 2",
        "No.",
    ]
    monkeypatch.setattr(
        humaneval,
        "complete",
        lambda *arguments, **_: [Completion(answers[sample], 0, True) for _, sample in arguments[4]],
    )
    prompts: list[str] = []
    program_format = chat_format(lambda text: prompts.append(text) or [1], name="template")
    report = run_task(
        humaneval.humaneval(*small_model()[:3], [DOUBLE], samples=3, program_format=program_format)
    )
    assert [sample["status"] for sample in report.samples] == ["ok", "ok", "syntax"]
    assert report.samples[0]["program"].endswith("def double(x):\n    return 2 * x")
    assert report.samples[0]["prompt"] == prompts[0]
    assert "```python\ndef double(x):\n```" in prompts[0]
