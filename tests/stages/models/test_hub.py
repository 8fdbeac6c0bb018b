"""`hub.find`: a folder is returned as it is, a name on the Hugging Face hub is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from pure import tree
from stages.models import checksums, hub, language_model
from tests.stages.models.test_language_model import make_model


def test_folders_and_paths_are_not_names_on_the_hub(tmp_path: Path) -> None:
    assert hub.find(tmp_path) == tmp_path
    assert hub.find(tmp_path / "none") == tmp_path / "none"
    assert hub.find("a/b/c") == Path("a/b/c")


def test_a_name_on_the_hub_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: downloads.append(name) or str(tmp_path)
    )
    assert hub.find("Someone/Model-1B") == tmp_path
    assert downloads == ["Someone/Model-1B"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for Someone/Model: what the patterns let through is downloaded."""
    source = language_model.save(tmp_path / "source", make_model())
    (source / "README.md").write_text("card")
    (source / "model.onnx").write_bytes(b"of another library")
    (source / "optimizer.pt").write_bytes(b"state")
    checksums.write(source)

    def download(name: str, *, allow_patterns: list[str]) -> str:
        names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
        for kept in filter_repo_objects(names, allow_patterns=allow_patterns):
            (tmp_path / "snapshot").mkdir(exist_ok=True)
            shutil.copy(source / kept, tmp_path / "snapshot" / kept)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return source


def test_a_snapshot_with_checksums_is_verified(repository: Path, tmp_path: Path) -> None:
    loaded = language_model.load("Someone/Model")
    names = {path.name for path in (tmp_path / "snapshot").iterdir()}
    assert {"SHA256SUMS", "README.md", "model.safetensors"} <= names
    assert not {"model.onnx", "optimizer.pt"} & names
    assert all(map(torch.equal, tree.leaves(loaded.params), tree.leaves(make_model().params)))
    weights = repository / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ValueError, match=r"model\.safetensors: its sha256 is"):
        language_model.load("Someone/Model")


def test_a_snapshot_without_checksums_is_loaded_as_before(repository: Path) -> None:
    (repository / "SHA256SUMS").unlink()
    assert language_model.load("Someone/Model").params


def test_adapters_are_found_by_their_name(repository: Path) -> None:
    (repository / "config.json").unlink()  # a folder of adapters has none
    (repository / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere/base"}')
    with pytest.raises(FileNotFoundError, match="/nowhere/base is missing, the base of the adapters"):
        language_model.load("Someone/Model")


def test_a_failed_download_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **_: object) -> str:
        raise ConnectionError("no route to host\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        FileNotFoundError, match=r"Someone/Model-1B: there is no such folder, and it could not be downloaded"
    ):
        language_model.load("Someone/Model-1B")
