"""`hub.find`: a folder is returned as it is, a name on the Hugging Face hub is downloaded."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from stages.models import hub, language_model


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


def test_a_failed_download_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **_: object) -> str:
        raise ConnectionError("no route to host\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        FileNotFoundError, match=r"Someone/Model-1B: there is no such folder, and it could not be downloaded"
    ):
        language_model.load("Someone/Model-1B")
