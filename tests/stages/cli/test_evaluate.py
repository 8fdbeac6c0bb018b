"""`intro2llm evaluate` and `intro2llm compare`, from flags to results (`stages.evaluate.build`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipes.choices import Question, Questions
from data_pipes.source.multiple_choice import write_csv
from stages.cli.main import main
from stages.models import language_model
from stages.sandbox import sandbox
from tests.stages.children import join_all, start_joined
from tests.stages.evaluate.small_model import small_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two models, texts, questions in MMLU's layout, programming problems and sums."""
    for seed in (0, 1):
        language_model.save(tmp_path / f"model{seed}", small_model(512, seed))
    (tmp_path / "text").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "text" / f"{name}.txt").write_text(f"def {name}(a, b): return a + b\n" * 9)
    rows = [Question(f"{i} + 1?", (str(i), str(i + 1), "x", "y"), 1, "sums", f"r:{i}") for i in range(12)]
    write_csv(tmp_path / "mmlu", Questions(rows, {"sums": rows[:5]}, "dev"))
    problem = {
        "task_id": "T/0",
        "prompt": "def double(x):\n",
        "entry_point": "double",
        "test": "def check(f):\n    assert f(2) == 4\n",
    }
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem) + "\n")
    (tmp_path / "sums.jsonl").write_text(
        "".join(json.dumps({"question": f"{i} + 1?", "answer": str(i + 1)}) + "\n" for i in range(3))
    )
    return tmp_path


def evaluate(folder: Path, *flags: str, model: int = 0, out: str = "out") -> int:
    return main(
        ["evaluate", "--model_path", str(folder / f"model{model}"), "--output_dir", str(folder / out), *flags]
    )


def test_perplexity_of_a_folder_of_texts_is_written_to_results_json(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert evaluate(folder, "--task", "perplexity", "--data_path", str(folder / "text")) == 0
    assert "bits_per_byte" in capsys.readouterr().out
    results = json.loads((folder / "out" / "results.json").read_text())
    assert results["results"]["perplexity"]["perplexity"]["count"] == 3
    assert results["options"]["task"] == ["perplexity"]


@pytest.mark.parametrize(("flags", "expected"), [((), True), (("--no_chat",), False), (("--chat",), False)])
def test_a_model_with_a_chat_template_that_is_asked_in_plain_text_is_told_so(
    flags: tuple[str, ...], expected: bool, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    template = "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}"
    language_model.save(folder / "model2", small_model(512)._replace(chat_template=template))
    task = ("--task", "exact_match", "--data_path", str(folder / "sums.jsonl"), "--max_new_tokens", "2")
    assert evaluate(folder, *task, *flags, model=2) == 0
    line = "exact_match: asked in plain text; --chat asks through the chat template, as a model after sft expects"
    assert (line in capsys.readouterr().out) is expected


def test_windows_of_perplexity_are_as_long_as_the_training_rows(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    language_model.save(folder / "model2", small_model(512)._replace(trained_length=48))
    flags = ("--task", "perplexity", "--data_path", str(folder / "text"))
    figures = {}
    for model, out, more, line in (
        (
            2,
            "default",
            (),
            "windows of 48 tokens, as long as the rows that the model was pretrained on; its context is 512",
        ),
        (2, "same", ("--max_length", "48"), ""),
        (
            2,
            "long",
            ("--max_length", "64"),
            "warning: --max_length 64: the model was pretrained on rows of 48 tokens",
        ),
        (0, "unknown", (), "windows of 512 tokens, the model's context"),
    ):
        assert evaluate(folder, *flags, *more, model=model, out=out) == 0
        shown = capsys.readouterr().out
        assert line in shown
        assert ("windows of" in shown or "warning" in shown) == bool(line)
        figures[out] = json.loads((folder / out / "results.json").read_text())["results"]["perplexity"]
    assert figures["default"] == figures["same"] != figures["long"]
    assert main(["compare", str(folder / "default"), str(folder / "unknown")]) == 2
    assert "of perplexity one --max_length" in capsys.readouterr().err


def test_two_models_are_evaluated_on_two_tasks_and_compared(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = [
        "--task",
        "mmlu",
        "exact_match",
        "--data_path",
        str(folder / "mmlu"),
        str(folder / "sums.jsonl"),
        "--limit",
        "8",
        "--max_new_tokens",
        "4",
    ]
    for model in (0, 1):
        assert evaluate(folder, *flags, model=model, out=f"out{model}") == 0
    capsys.readouterr()
    assert main(["compare", str(folder / "out0"), str(folder / "out1")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["task", "mmlu", "exact_match"]
    assert lines[1].split()[-1] == "8"
    assert evaluate(folder, *flags, model=1, out="out0") == 2
    assert "model_sha256 was" in capsys.readouterr().err


def test_two_processes_answer_the_questions_of_one(folder: Path) -> None:
    flags = ["--task", "mmlu", "exact_match", "--limit", "5", "--max_new_tokens", "4", "--data_path"]
    flags += [str(folder / "mmlu"), str(folder / "sums.jsonl")]
    assert evaluate(folder, *flags) == 0
    arguments = ["--model_path", str(folder / "model0"), "--output_dir", str(folder / "two"), *flags]
    assert join_all(start_joined(2, folder / "printed", arguments, subcommand="evaluate")) == [0, 0]
    assert (folder / "printed" / "1.out").read_text() == (folder / "printed" / "1.err").read_text() == ""
    one, two = (json.loads((folder / x / "results.json").read_text())["results"] for x in ("out", "two"))
    for task, figures in one.items():
        for name, figure in figures.items():
            assert two[task][name] == pytest.approx(figure, rel=1e-5)
    lines = [(folder / x / "samples.jsonl").read_text().splitlines() for x in ("out", "two")]
    assert [json.loads(line)["id"] for line in lines[0]] == [json.loads(line)["id"] for line in lines[1]]


def test_gsm8k_prompts_begin_with_the_examples_of_dev_path(folder: Path) -> None:
    flags = ["--task", "gsm8k", "--data_path", str(folder / "sums.jsonl"), "--max_new_tokens", "4"]
    assert evaluate(folder, *flags, "--shots", "2", "--dev_path", str(folder / "sums.jsonl")) == 0
    sample = json.loads((folder / "out" / "samples.jsonl").read_text().splitlines()[0])
    assert sample["prompt"].startswith("Question: 0 + 1?\nAnswer: 1\n\nQuestion: 1 + 1?\nAnswer: 2\n\n")
    assert evaluate(folder, *flags, out="other") == 2


HUMANEVAL = ("--task", "humaneval", "--max_new_tokens", "4", "--data_path")


@pytest.mark.skipif(not sandbox.probe().complete, reason="no jail can be made here")
def test_humaneval_programs_are_run_and_judged(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert evaluate(folder, *HUMANEVAL, str(folder / "problems.jsonl")) == 0
    assert "pass@1" in capsys.readouterr().out


def test_humaneval_without_a_sandbox_is_refused(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "probe", lambda: sandbox.Isolation(False, "sandbox: missing: namespaces"))
    assert evaluate(folder, *HUMANEVAL, str(folder / "problems.jsonl")) == 1
    error = capsys.readouterr().err
    assert "sandbox: missing: namespaces" in error
    assert "--run_untrusted_code_without_isolation" in error
    assert not (folder / "out" / "samples.jsonl").exists()


def test_options_without_effect_on_the_answers_may_change(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    """--limit and --batch_tokens may change in a resumed evaluation; --shots may not."""
    flags = ["--task", "mmlu", "--data_path", str(folder / "mmlu"), "--shots", "1"]
    assert evaluate(folder, *flags, "--limit", "4") == 0
    assert evaluate(folder, *flags, "--limit", "6", "--batch_tokens", "64") == 0
    assert "resuming with 4 of 6 questions answered" in capsys.readouterr().out
    assert evaluate(folder, *flags[:-1], "2") == 2
    assert "options.shots was 1, is 2" in capsys.readouterr().err


def test_a_bad_row_stops_the_evaluation_or_is_skipped_and_recorded(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    path = folder / "sums.jsonl"
    path.write_text(path.read_text() + '{"question": "only"}\n')
    flags = ["--task", "exact_match", "--data_path", str(path), "--max_new_tokens", "2"]
    assert evaluate(folder, *flags) == 2
    error = capsys.readouterr().err
    assert "sums.jsonl:4" in error
    assert "--on_bad skip" in error
    assert evaluate(folder, *flags, "--on_bad", "skip") == 0
    assert "sums.jsonl:4" in (folder / "out" / "bad_rows.jsonl").read_text()


MISTAKES = (
    (["--task", "mmlu", "mmlu"], "named twice"),
    (["--task", "perplexity", "mmlu", "--data_path", "a"], "--data_path has 1 entry for 2 tasks"),
    (["--task", "arc"], "--task arc has no data of its own"),
    (["--limit", "0"], "--limit: expected at least 1, got 0"),
    (["--task", "mmlu", "--data_path", "MISSING/nothing.csv"], "nothing.csv"),
    (["--task", "humaneval", "--pass_at", "2"], "k=2; take more samples"),
    (["--workers", "0"], "--workers: expected at least 1, got 0"),
    (["--stride", "0"], "--stride: expected at least 1, got 0"),
    (["--timeout", "-1"], "--timeout: expected a finite number above 0, got -1.0"),
    (["--shots", "-2"], "--shots: expected at least 0, got -2"),
    (["--samples", "5"], "--temperature 0 decodes greedily"),
    (["--model_path", "MISSING"], "MISSING"),
    (["--task", "mmlu", "--chat_template", "chatml"], "--chat_template would have no effect"),
    (["--task", "humaneval", "--template_kwargs", "{}"], "--template_kwargs would have no effect"),
    (["--task", "mmlu", "--stride", "16"], "--stride would have no effect with --task mmlu; perplexity reads it"),
    (["--shots", "2"], "--shots would have no effect with --task perplexity; mmlu, arc, hellaswag, gsm8k read it"),
)  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), MISTAKES)
def test_invalid_flags_are_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture, flags: list[str], message: str
) -> None:
    flags = [flag.replace("MISSING", str(folder / "MISSING")) for flag in flags]
    assert evaluate(folder, *flags) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
