"""A card says what the files of a run say: data, base, flags, figures; no secret, no home folder, nothing lost.

Figures are those of evaluations of the same weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from pure import tree
from stages.card.write import write_at_end, write_card
from stages.checkpoint import directories
from stages.evaluate import record
from stages.evaluate.build import hash_params
from stages.evaluate.options import EvaluateOptions
from stages.models import checksums, language_model
from stages.run.data import sources
from tests.stages.evaluate.test_record import _task
from tests.stages.models.test_language_model import make_model
from tests.stages.report.test_record import write_run

MODEL = make_model()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = language_model.save(tmp_path_factory.mktemp("card") / "final_model", MODEL)
    checksums.write(folder)
    return folder


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    return make_run(saved, tmp_path / "run")


def make_run(saved: Path, folder: Path, **flags: Any) -> Path:
    """A complete run of SFT."""
    write_run(folder, **{"model_path": "ada/base", "data_path": "squad", "learning_rate": 0.5, **flags})
    shutil.copytree(saved, folder / "final_model")
    fields = json.loads((folder / "config.json").read_text())
    source = "hub" if str(fields["options"]["model_path"]).startswith("ada/") else "folder"
    (folder / "config.json").write_text(json.dumps(fields | {"model_source": source}))
    return folder


def read(run: Path) -> str:
    return (run / "final_model" / "README.md").read_text("utf-8")


def evaluate(folder: Path, **about: Any) -> Path:
    flags = EvaluateOptions(model_path="run", task=("mmlu",), limit=6)
    about = {"model_sha256": hash_params(MODEL.params), "options": {"dtype": "float32"}, **about}
    record.evaluate([_task([])], folder, about=about, flags=vars(flags), quiet=True)
    return folder


def test_a_card_names_model_data_base_and_flags_and_the_model_still_loads(run: Path) -> None:
    sources.record(run, "squad", {"train": 7, "held out": 2})
    card = ModelCard.load(write_card(run), ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == (["ada/base"], "finetune")
    assert (data["datasets"], data["library_name"]) == (["squad"], "transformers")
    assert (data["pipeline_tag"], data["tags"]) == ("text-generation", ["intro2llm", "sft"])
    assert "license" not in data
    assert f"| parameters | {tree.count(MODEL.params):,} in F32 |" in card.text
    assert "| vocabulary | 290 |" in card.text
    assert "| rows, train | 7 |" in card.text
    assert checksums.read(run / "final_model")["model.safetensors"] in card.text
    assert "intro2llm sft --seed 3 --model_path ada/base --data_path squad --learning_rate 0.5" in card.text
    assert "| `--learning_rate` | `0.5` |" in card.text
    loaded = language_model.load(run)
    assert all(map(torch.equal, tree.leaves(loaded.params), tree.leaves(MODEL.params)))


def test_a_run_that_was_made_in_python_has_unknown_flags(run: Path) -> None:
    (run / "config.json").unlink()
    write_card(run)
    assert "Unknown: the run has no config.json" in read(run)
    assert "All flags have their defaults." not in read(run)


def test_figures_of_this_model_have_intervals_and_their_command(run: Path, tmp_path: Path) -> None:
    evaluate(run / "eval")
    other = evaluate(tmp_path / "elsewhere")
    write_card(run, [other])
    card = read(run)
    assert "Evaluation `eval`:" in card
    assert "Evaluation `elsewhere`:" in card
    assert "| `t` | `acc` | 2.5 | 1.00305 to 3.99695 | 6 |" in card  # 2.5 ± 1.96 · 1.8708 / √6
    assert "intro2llm evaluate --model_path run --output_dir runs/evaluate --limit 6 --task mmlu" in card


def test_figures_of_another_model_are_left_out_or_refused(run: Path, tmp_path: Path) -> None:
    evaluate(run / "eval", model_sha256="0" * 64)
    write_card(run)
    assert "`t`" not in read(run)
    assert "(the evaluation in eval is of other weights, and was left out.)" in read(run)
    other = evaluate(tmp_path / "elsewhere", model_sha256="0" * 64)
    with pytest.raises(ValueError, match=r"results\.json: an evaluation of another model: its model_sha256"):
        write_card(run, [other])
    with pytest.raises(FileNotFoundError, match=r"none/results\.json is missing; expected the --output_dir"):
        write_card(run, [tmp_path / "none"])


def test_no_secret_and_no_home_folder_is_published(saved: Path, tmp_path: Path) -> None:
    home = Path.home()
    run = make_run(
        saved,
        tmp_path / "run",
        model_path=f"{home}/secret project/base",
        data_path=f"{home}/数据/my | chats.jsonl",
        template_kwargs=f'{{"api_key": "verysecret", "at": "{home}/x"}}',
        reward=["/srv/ada/r.py:score", "hf_" + "a" * 30],
        rollout_server="http://ada:verysecret@10.0.0.7:8000",
        wandb="ada-team",
        chat_template=str(home),
        unknown_api_key="verysecret",
    )
    write_card(run)
    card = read(run)
    for private in (
        "verysecret",
        str(home),
        "secret project",
        "10.0.0.7",
        "ada-team",
        "hf_a",
        "/srv",
        str(tmp_path),
    ):
        assert private not in card, private
    assert "`my \\| chats.jsonl`" in card
    assert "r.py:score" in card
    assert "| `--chat_template` | `~` |" in card
    assert "base_model" not in ModelCard(card).data.to_dict()  # the hub refuses paths


def test_names_that_the_run_did_not_record_as_names_on_the_hub_are_not_in_the_front(
    saved: Path, tmp_path: Path
) -> None:
    """Those of folders are OWNER/NAME too, once the card is written in another folder."""
    run = make_run(saved, tmp_path / "run", model_path="runs/base", data_path="data/chats")
    files = [{"name": "a.jsonl", "bytes": 1, "sha256": "0" * 64}]
    for data in (None, {"data_path": "data/chats", "files": files}, {"data_path": "other/chats"}):
        if data:
            (run / sources.NAME).write_text(json.dumps(data))
        front = ModelCard.load(write_card(run)).data.to_dict()
        assert not {"base_model", "datasets"} & set(front)
    fields = json.loads((run / "config.json").read_text())
    del fields["model_source"]  # of an earlier version
    (run / "config.json").write_text(json.dumps(fields))
    assert "base_model" not in ModelCard.load(write_card(run)).data.to_dict()


def test_notes_of_damaged_files_name_no_folders(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(saved, tmp_path / "secret" / "run")
    (run / "ladder.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    for typed in (run, Path("secret/run")):
        write_card(typed)
        assert "could not be read: ladder.json" in read(run)
        assert "secret" not in read(run)


def test_a_run_without_data_has_no_licence_of_the_current_folder(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.chdir(tmp_path)
    write_card(run := make_run(saved, tmp_path / "run", data_path=""))
    assert "| licence | unknown |" in read(run)


def test_an_edited_card_is_kept_and_refreshed_and_never_lost(run: Path) -> None:
    path = write_card(run)
    path.write_text(read(run).replace("# run", "# My model\n\nIts limits: many."))
    evaluate(run / "eval")
    write_card(run)
    assert "Its limits: many." in read(run)
    assert "Evaluation `eval`:" in read(run)
    checksums.verify(run / "final_model")
    language_model.save(run / "final_model", MODEL)  # the same command again writes the model again
    assert "Its limits: many." in read(run)
    path.write_text("# Mine alone")
    said: list[str] = []
    write_at_end(run, said.append)
    assert path.read_text() == "# Mine alone"
    assert "README.md: it has no generated section" in said[0]
    assert len(said) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"\xff\xfe# x", "README.md: 'utf-8' codec"), (b"# other card", "no generated section")],
)
def test_a_card_that_cannot_be_merged_is_named(run: Path, data: bytes, message: str) -> None:
    (run / "final_model" / "README.md").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        write_card(run)
    assert (run / "final_model" / "README.md").read_bytes() == data


def test_a_run_without_metrics_has_a_card_and_one_without_a_model_none(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    write_card(run)
    assert "None: no validation was logged" in read(run)
    shutil.rmtree(run / "final_model")
    said: list[str] = []
    write_at_end(run, said.append)
    assert said == []
    with pytest.raises(ValueError, match=r"run: it has no final_model, .*: run its command again"):
        write_card(run)


def test_a_chain_of_runs_is_followed_and_licences_are_read(saved: Path, tmp_path: Path) -> None:
    base = make_run(saved, tmp_path / "base", model_path="ada/root")
    (base / "final_model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text("---\nlicense: [cc0-1.0, mit]\n---\n")
    (tmp_path / "data" / "a.jsonl").write_text('{"a": 1}\n')
    run = make_run(
        saved, tmp_path / "r", model_path=str(base / "final_model"), data_path=str(tmp_path / "data")
    )
    sources.record(run, str(tmp_path / "data"), {"train": 1})
    write_card(run)
    card = read(run)
    assert "| started from | `base/final_model` (run of sft, sha256 unknown, licence `apache-2.0`) |" in card
    assert "| which started from | `ada/root` (sha256 unknown, licence unknown) |" in card
    assert ModelCard(card).data.base_model == ["ada/root"]
    assert "| licence | `cc0-1.0, mit` |" in card
    digest = hashlib.sha256((tmp_path / "data" / "a.jsonl").read_bytes()).hexdigest()
    assert f"| `a.jsonl` | 9 bytes, sha256 `{digest}` |" in card


def test_data_of_a_run_that_resumes_are_those_of_its_start(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.record(run, "embedded", {"train": 7})
    monkeypatch.setattr(directories, "list_complete", lambda folder: [folder])
    sources.record(run, "other", {"train": 8})
    assert sources.read(run) == {"data_path": "embedded", "rows": {"train": 7}}
    (run / sources.NAME).write_text(json.dumps({"files": [{"name": 3}]}))
    with pytest.raises(ValueError, match=r"data\.json: expected the files and rows"):
        sources.read(run)


def test_a_folder_that_cannot_be_written_is_named_and_links_are_followed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(run / "final_model", tmp_path / "elsewhere")
    (run / "final_model").symlink_to(tmp_path / "elsewhere")
    assert write_card(run).is_file()

    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("stages.card.write.write_atomically", refuse)
    evaluate(run / "eval")
    with pytest.raises(OSError, match=r"README\.md: Permission denied"):
        write_card(run)
