"""A model's name on the hub instead of a folder."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from stages.models import hub, language_model


def test_a_folder_is_itself_and_a_path_is_no_name(tmp_path: Path) -> None:
    assert hub.find(tmp_path) == tmp_path
    assert hub.find(tmp_path / "none") == tmp_path / "none"
    assert hub.find("a/b/c") == Path("a/b/c")


def test_a_name_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path)
    )
    assert hub.find("Someone/Model-1B") == tmp_path
    assert asked == ["Someone/Model-1B"]


def test_a_missing_network_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **_: object) -> str:
        raise ConnectionError("no route to host\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        FileNotFoundError, match=r"Someone/Model-1B: there is no such folder, and it could not be downloaded"
    ):
        language_model.load("Someone/Model-1B")
