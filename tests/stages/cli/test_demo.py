"""`intro2llm demo` trains, samples and evaluates; run again it prints its results; interrupted it resumes."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import pytest

from stages.cli import demo
from stages.cli.main import main
from tests.stages.children import start_process, wait_for
from tests.stages.small import rows, write_config


def flags(folder: Path, steps: int = 4) -> list[str]:
    """Flags of a demo on a small text and model, which takes seconds."""
    if not (folder / "small.json").exists():
        write_config(folder / "small.json", max_position_embeddings=256)
        text = folder / "text"
        text.mkdir()
        for i in range(8):
            (text / f"{i}.py").write_text(
                f'def f{i}(x):\n    """Return the {i}th."""\n    return x + {i}\n' * 30
            )
    return [
        "--output_dir",
        str(folder / "run"),
        "--config",
        str(folder / "small.json"),
        "--data_path",
        str(folder / "text"),
        "--max_steps",
        str(steps),
        "--no-compile",
        "--ladder_scale",
        "0.02",
    ]


@pytest.fixture(scope="module")
def demo_output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished demo, and the lines that it printed."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        assert main(["demo", *flags(folder)]) == 0
    return folder, "\n".join(lines)


def test_the_demo_prints_samples_before_and_after_and_compares_bits_per_byte(
    demo_output: tuple[Path, str],
) -> None:
    folder, text = demo_output
    before, after, table = (text.index(words) for words in ("--- before", "--- after", "bits per byte"))
    assert before < after < table
    for prompt in demo.PROMPTS:
        assert text.count(f"> {prompt}") == 2
    for name in ("all tokens equally likely", "gzip -9", "xz -9e", "trained model"):
        assert name in text
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["model"] == rows(folder / "run")[-1]["val_bpb"]
    assert 0 < results["xz"] < results["guess"]
    assert (folder / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "run" / "final_model" / "model.safetensors").exists()
    assert f"intro2llm generate --model_path {folder / 'run'}" in text


def test_a_finished_demo_prints_its_results_again(
    demo_output: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, text = demo_output
    assert main(["demo", *flags(folder)]) == 0
    again = capsys.readouterr().out
    assert "is complete; delete the folder, or choose another --output_dir" in again
    assert text[text.index("stage measure") : text.index("these stages took")] in again
    assert text[text.index("held-out text  ") : text.index("of xz)")] in again


def test_a_log_without_the_result_is_refused(
    demo_output: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is complete, but the lines of its log that have val_bpb are gone."""
    folder = shutil.copytree(demo_output[0], tmp_path / "copy")
    (folder / "run" / "results.json").unlink()
    (folder / "run" / "metrics.jsonl").write_text("")
    assert main(["demo", *flags(folder)]) == 2
    assert "metrics.jsonl: expected val_bpb in the line of the last step" in capsys.readouterr().err


def test_an_interrupted_demo_resumes_to_the_same_results(
    demo_output: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_file = tmp_path / "run" / "metrics.jsonl"
    process = start_process(flags(tmp_path), subcommand="demo")
    wait_for(lambda: log_file.exists() and log_file.read_bytes().count(b"\n") >= 1, process)
    process.terminate()
    process.join()
    assert process.exitcode in (143, 0)
    assert (tmp_path / "run" / "results.json").exists() == (process.exitcode == 0)
    assert main(["demo", *flags(tmp_path)]) == 0
    assert "before training" not in capsys.readouterr().out or process.exitcode == 0
    one, other = ((folder / "run" / "results.json").read_text() for folder in (tmp_path, demo_output[0]))
    assert json.loads(one) == json.loads(other)
    assert rows(tmp_path / "run") == rows(demo_output[0] / "run")


def test_the_demo_pretrains_the_tiny_config_on_the_embedded_corpus() -> None:
    options = demo.pretrain_options(demo.DemoOptions(seed=7, max_steps=3))
    assert (options.data_path, options.config, options.seed, options.max_steps) == (
        "embedded",
        "tiny_config",
        7,
        3,
    )
    assert f"{options.batch_size * options.max_length:,} tokens each" in inspect.getsource(demo.DemoOptions)
