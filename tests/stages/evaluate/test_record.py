"""`stages.evaluate.record`: the files of an evaluation, and resuming from its saved samples."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.evaluate import record
from stages.evaluate.task import Task, mean

ABOUT = {"model_sha256": "abc", "options": {"shots": 5}}


def _task(asked: list[int], fail_at: int | None = None, name: str = "t") -> Task:
    """Six questions in chunks of two; answering appends to `asked`, and stops at question `fail_at`."""

    def answer(numbers: list[int]) -> list[dict]:
        if fail_at is not None and fail_at in numbers:
            raise KeyboardInterrupt
        asked.extend(numbers)
        return [{"prompt": f"p{i}", "output": "ü", "score": float(i), "dropped": i % 2} for i in numbers]

    return Task(
        name,
        [f"i{i}" for i in range(6)],
        answer,
        lambda s: {"acc": mean([x["score"] for x in s])},
        {"a": 1},
        2,
        list("abcdef"),
    )


def test_results_and_samples_are_written_with_their_digest(tmp_path: Path) -> None:
    reports = record.evaluate([_task([]), _task([], name="u")], tmp_path, about=ABOUT, quiet=True)
    results = json.loads((tmp_path / record.RESULTS).read_text())
    assert results["samples_read"] == {"t": 6, "u": 6}
    assert results["results"]["t"]["acc"] == {
        "value": 2.5,
        "stderr": reports["t"].figures["acc"].stderr,
        "count": 6,
    }
    assert results["cut_on_the_left"] == {"t": 3, "u": 3}
    assert results["model_sha256"] == "abc"
    assert results["environment"]["torch"]
    assert results["environment"]["intro2llm"]
    data = (tmp_path / record.SAMPLES).read_bytes()
    lines = [json.dumps(sample, sort_keys=True) for report in reports.values() for sample in report.samples]
    assert results["samples_sha256"] == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert [json.loads(line)["id"] for line in data.splitlines()[:6]] == [f"i{i}" for i in range(6)]
    assert {name: len(samples) for name, samples in record.read_samples(tmp_path).items()} == {"t": 6, "u": 6}
    assert "3 of 6 prompts were cut" in record.format_table(reports)


@pytest.mark.parametrize("cut", [0, 7])
def test_an_interrupted_evaluation_resumes_from_the_saved_samples(tmp_path: Path, cut: int) -> None:
    """`cut` bytes are missing at the end of the file; an incomplete line counts as not written."""
    with pytest.raises(KeyboardInterrupt):
        record.evaluate([_task([], fail_at=4)], tmp_path, about=ABOUT, quiet=True)
    path = tmp_path / record.SAMPLES
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - cut])
    asked: list[int] = []
    reports = record.evaluate([_task(asked)], tmp_path, about=ABOUT, quiet=True)
    assert asked == ([4, 5] if not cut else [3, 4, 5])
    uninterrupted = record.evaluate([_task([])], tmp_path / "whole", about=ABOUT, quiet=True)
    assert reports == uninterrupted
    asked_again: list[int] = []
    assert record.evaluate([_task(asked_again)], tmp_path, about=ABOUT, quiet=True) == uninterrupted
    assert asked_again == []


def test_a_folder_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    record.evaluate([_task([])], tmp_path, about=ABOUT, quiet=True)
    with pytest.raises(ValueError, match="model_sha256 was abc, is def"):
        record.evaluate([_task([])], tmp_path, about={**ABOUT, "model_sha256": "def"}, quiet=True)
    changed = _task([])._replace(about={"a": 2})
    with pytest.raises(ValueError, match=r"templates\.t was"):
        record.evaluate([changed], tmp_path, about=ABOUT, quiet=True)
    with pytest.raises(ValueError, match=r"options\.shots was 5, is 4;"):
        record.evaluate([_task([])], tmp_path, about={**ABOUT, "options": {"shots": 4}}, quiet=True)
    (tmp_path / record.PROVENANCE).unlink()
    with pytest.raises(ValueError, match="its evaluation is unknown"):
        record.evaluate([_task([])], tmp_path, about=ABOUT, quiet=True)


def test_an_invalid_line_of_samples_is_refused_by_its_number(tmp_path: Path) -> None:
    record.evaluate([_task([])], tmp_path, about=ABOUT, quiet=True)
    path = tmp_path / record.SAMPLES
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "oops\n", *lines[2:]]))
    with pytest.raises(ValueError, match=r"samples.jsonl:2: expected a JSON object"):
        record.evaluate([_task([])], tmp_path, about=ABOUT, quiet=True)
    with pytest.raises(FileNotFoundError, match=r"expected the --output_dir"):
        record.read_samples(tmp_path / "nothing")


def test_progress_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    record.evaluate([_task([])], tmp_path, about=ABOUT)
    assert "t 6/6" in capsys.readouterr().out


def test_a_folder_without_answers_may_be_used_by_another_evaluation(tmp_path: Path) -> None:
    """The first evaluation failed before its first answer."""
    with pytest.raises(KeyboardInterrupt):
        record.evaluate([_task([], fail_at=0)], tmp_path, about=ABOUT, quiet=True)
    record.evaluate([_task([])], tmp_path, about={**ABOUT, "model_sha256": "def"}, quiet=True)


def test_changed_questions_are_answered_again(tmp_path: Path) -> None:
    record.evaluate([_task([])], tmp_path, about=ABOUT, quiet=True)
    asked: list[int] = []
    changed = _task(asked)._replace(digests=["a", "b", "CHANGED", "d", "e", "f"])
    record.evaluate([changed], tmp_path, about=ABOUT, quiet=True)
    assert asked == [2]
    assert [s["item"] for s in record.read_samples(tmp_path)["t"]] == ["a", "b", "CHANGED", "d", "e", "f"]


def test_a_second_evaluation_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from stages.checkpoint.lock import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ValueError, match="in use by another process"):
            record.evaluate([_task([])], tmp_path, about=ABOUT, quiet=True)
        process.communicate()


def test_an_unknown_standard_error_is_null_in_the_json(tmp_path: Path) -> None:
    one = _task([])._replace(ids=["i0"], digests=["a"])
    record.evaluate([one], tmp_path, about=ABOUT, quiet=True)

    def refuse_constant(name: str) -> None:
        pytest.fail(name)

    found = json.loads((tmp_path / record.RESULTS).read_text(), parse_constant=refuse_constant)
    assert found["results"]["t"]["acc"]["stderr"] is None


SLOW_EVALUATION = """
import sys, time
from stages.evaluate import record
from tests.stages.evaluate.test_record import ABOUT, _task
task = _task([])
def slow(numbers):
    time.sleep(0.2)
    return task.answer(numbers)
record.evaluate([task._replace(answer=slow, chunk=1)], sys.argv[1], about=ABOUT, quiet=True)
"""


def test_an_evaluation_killed_with_9_resumes_to_the_same_result(tmp_path: Path) -> None:
    path = tmp_path / record.SAMPLES
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen([sys.executable, "-c", SLOW_EVALUATION, str(tmp_path)], cwd=root) as process:
        while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= 2):
            time.sleep(0.02)
        process.kill()
    saved = path.read_bytes().count(b"\n")
    assert 2 <= saved < 6
    asked: list[int] = []
    reports = record.evaluate([_task(asked)], tmp_path, about=ABOUT, quiet=True)
    assert len(asked) == 6 - saved
    assert reports == record.evaluate([_task([])], tmp_path / "whole", about=ABOUT, quiet=True)
