"""`source.hub`: mistyped paths are told apart from data set names; an unreachable hub is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from data_pipes.source import hub


def name_lookup_fails(*_: Any) -> None:
    raise OSError(-2, "Name or service not known")


@pytest.mark.parametrize(
    "path", ["owner/text.CSV", "notes.v1", "data/txets", "a/b/c", "", "../up", "owner/x.txt.gz"]
)
def test_a_mistyped_path_is_not_a_data_set_name(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    assert not hub.is_name(path)


@pytest.mark.parametrize("path", ["wikitext", "owner/name", "owner/name-1.5", "allenai/c4"])
def test_a_data_set_name_is_recognised(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub.is_name(path)


def test_an_unreachable_hub_is_explained_unless_the_data_set_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    monkeypatch.setattr(hub.socket, "getaddrinfo", lambda *_: [])
    assert hub.explain_unreachable("owner/name") is None
    monkeypatch.setattr(hub.socket, "getaddrinfo", name_lookup_fails)
    assert "cannot be reached (Name or service not known)" in (hub.explain_unreachable("owner/name") or "")
    (tmp_path / "owner___name").mkdir()
    assert hub.explain_unreachable("owner/name") is None
