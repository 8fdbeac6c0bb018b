"""Cards of other weights and files with the path of the home folder are refused; others pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.models import checksums
from stages.models.publishable import refuse_home_paths, refuse_outdated_card

ROW = "| sha256 of `{}` | `{}` |\n"


def test_a_card_of_other_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    checksums.write(tmp_path)
    refuse_outdated_card(tmp_path)  # no card
    digest = checksums.read(tmp_path)["model.safetensors"]
    card = tmp_path / "README.md"
    card.write_text("# Mine\n" + ROW.format("model.safetensors", digest))
    refuse_outdated_card(tmp_path)
    for name, old, there in (("model.safetensors", "0" * 64, digest[:16]), ("x", digest, "no such file")):
        card.write_text(ROW.format(name, old))
        with pytest.raises(ValueError, match=rf"the card is of other weights: .* has {there}.*card RUN"):
            refuse_outdated_card(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("config.json", '{"a": [{"_name_or_path": "HOME/models/x"}]}', "a._name_or_path"),
        ("config.json", '{"a": "file://HOME"}', "a"),
        ("config.json", '{"HOME/x": 1}', "HOME/x"),
        ("README.md", "# x\ntrained in HOME/runs", "line 2"),
        ("chat_template.jinja", "{# HOME/x #}", "line 1"),
    ],
)
def test_the_home_folder_is_refused(
    name: str, text: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = "/srv/ada"
    monkeypatch.setenv("HOME", home)
    place = place.replace("HOME", home)
    with pytest.raises(ValueError, match=f"{name}: {place} has the path of your home folder"):
        refuse_home_paths(tmp_path, {name: text.replace("HOME", home).encode()})
    refuse_home_paths(tmp_path, {name: text.replace("HOME", f"{home}-2").encode()})
    refuse_home_paths(tmp_path, {"tokenizer.json": text.replace("HOME", home).encode()})
    monkeypatch.setenv("HOME", "/")
    refuse_home_paths(tmp_path, {name: b"/srv/x"})
