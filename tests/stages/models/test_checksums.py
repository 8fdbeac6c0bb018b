"""SHA256SUMS of a model's folder: coreutils verifies it, and a changed file is refused by name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from stages.models import adapter_folder, checksums, language_model, reward_model
from tests.stages.models.test_language_model import make_model
from tests.stages.models.test_reward_model import make_reward_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = language_model.save(tmp_path_factory.mktemp("sums") / "model", make_model(), shard_bytes=10_000)
    (folder / "more").mkdir()
    (folder / "more" / "a file.txt").write_text("text")
    (folder / "README.md").write_text("card")
    checksums.write(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def test_sha256sum_verifies_every_file_but_the_card(folder: Path) -> None:
    found = subprocess.run(["sha256sum", "-c", "--strict", checksums.NAME], cwd=folder, capture_output=True)
    assert found.returncode == 0, found.stderr
    listed = {line.rpartition(": ")[0] for line in found.stdout.decode().splitlines()}
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert listed == files - {"README.md", checksums.NAME}
    assert sum(name.endswith(".safetensors") for name in listed) > 1


def test_a_changed_byte_of_any_file_is_refused_by_name(folder: Path) -> None:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name in checksums.NOT_HASHED:
            continue
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ValueError, match=f"{path}: its sha256 is .*, expected sha256 .* by SHA256SUMS"):
            checksums.verify(folder)
        path.write_bytes(data)
    checksums.verify(folder)


def test_a_model_whose_weights_changed_is_not_loaded(folder: Path) -> None:
    weights = max(folder.glob("*.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{weights.name}: its sha256 is .* if the change is yours, delete"):
        language_model.load(folder)
    (folder / checksums.NAME).unlink()
    assert language_model.load(folder).params


def test_a_reward_model_and_adapters_are_verified(tmp_path: Path) -> None:
    folder = reward_model.save(tmp_path / "reward", make_reward_model())
    checksums.write(folder)
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"generation_config\.json: its sha256"):
        reward_model.load(folder)
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / adapter_folder.CONFIG).write_text("{}")
    checksums.write(tmp_path / "adapters")
    (tmp_path / "adapters" / adapter_folder.CONFIG).write_text('{"r": 8}')
    with pytest.raises(ValueError, match=r"adapter_config\.json: its sha256"):
        adapter_folder.read_adapters(tmp_path / "adapters", {}, "base")


def test_files_may_be_added_and_the_card_edited_but_none_of_the_model_removed(folder: Path) -> None:
    (folder / "README.md").write_text("license: mit")
    (folder / "notes.txt").write_text("new")
    checksums.verify(folder)
    (folder / "more" / "a file.txt").unlink()  # no file that a model is read from: the hub's copy lacks it
    checksums.verify(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json: it is missing, expected sha256"):
        checksums.verify(folder)


def test_a_damaged_list_is_refused_by_its_line(folder: Path) -> None:
    list_ = folder / checksums.NAME
    list_.write_text(list_.read_text().replace("  ", "\t", 1))
    with pytest.raises(ValueError, match="SHA256SUMS, line 1: expected 64 hexadecimal digits"):
        checksums.verify(folder)


def test_lists_of_others_are_read_and_may_name_the_card(folder: Path) -> None:
    sums = checksums.read(folder)
    lines = [f"{digest.upper()} *./{name}" for name, digest in sums.items()]
    weights = max(folder.glob("*.safetensors")).name
    lines += ["# made by hand", "", f"SHA256 ({weights}) = {sums[weights]}", f"{'0' * 64}  README.md"]
    (folder / checksums.NAME).write_text("\ufeff" + "\r\n".join(lines))
    assert checksums.read(folder) == sums
    checksums.verify(folder)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "more/../../secret"])
def test_a_list_names_files_of_the_folder_only(folder: Path, name: str) -> None:
    (folder / checksums.NAME).write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(ValueError, match=r"SHA256SUMS, line 1: .* the name of a file in the folder, got"):
        checksums.verify(folder)
