"""`embedded.python_library`: the embedded corpus of Python's source and documentation topics."""

import hashlib
import sysconfig
from pathlib import Path

import pytest

from data_pipes.duplicates import near_duplicates
from data_pipes.embedded import python_library as library_module
from data_pipes.embedded.python_library import TOPICS, documents, is_held_out
from data_pipes.types import Document


def total_bytes(documents: list[Document]) -> int:
    return sum(len(document.text.encode()) for document in documents)


@pytest.fixture(scope="module", name="parts")
def read_parts() -> dict[str, list[Document]]:
    return {part: list(documents(part)) for part in ("train", "held_out", "all")}  # type: ignore[arg-type]


def test_the_corpus_has_about_twelve_megabytes_of_code_and_text(parts: dict[str, list[Document]]) -> None:
    assert 8_000_000 < total_bytes(parts["all"]) < 16_000_000
    names = {document.name for document in parts["all"]}
    assert {"enum.py", "asyncio/tasks.py", "json/__init__.py", f"{TOPICS}#for"} <= names
    assert len(names) == len(parts["all"])
    assert not [name for name in names if name.startswith(("test/", "encodings/", "_sysconfigdata"))]
    assert not [name for name in names if "site-packages" in name]


def test_documents_are_sorted_by_name_and_always_the_same(parts: dict[str, list[Document]]) -> None:
    assert list(documents()) == parts["all"]
    names = [document.name for document in parts["all"] if "#" not in document.name]
    assert names == sorted(names)


def test_the_two_parts_share_no_file_and_together_are_the_whole(parts: dict[str, list[Document]]) -> None:
    train, held_out = (
        {document.name.split("#")[0] for document in parts[part]} for part in ("train", "held_out")
    )
    assert not train & held_out
    assert sorted(parts["train"] + parts["held_out"]) == sorted(parts["all"])
    assert 0.04 < total_bytes(parts["held_out"]) / total_bytes(parts["all"]) < 0.15
    assert TOPICS in train


def test_no_held_out_document_has_a_near_copy_in_training(parts: dict[str, list[Document]]) -> None:
    """Documents of at most 200 characters, such as a licence line, are not compared."""
    fold = near_duplicates(0.6, bands=16, rows=2)
    memory = fold.init()
    long = [document for document in parts["held_out"] if len(document.text) > 200]
    documents = [*parts["train"], *long]
    reasons = [fold.step(memory, document.name, fold.prepare(document)) for document in documents]
    reasons = reasons[len(parts["train"]) :]
    assert [reason for reason in reasons if reason] == []


def test_a_file_is_held_out_by_its_name_alone() -> None:
    for name in ("enum.py", "asyncio/tasks.py", "os.py"):
        fraction = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
        assert is_held_out(name, fraction + 1e-9)
        assert not is_held_out(name, fraction)
    assert not is_held_out(TOPICS, 1.0)
    assert list(documents("held_out", held_out=0.0)) == []


def test_topics_are_their_text_not_python_source(parts: dict[str, list[Document]]) -> None:
    topics = {d.name.split("#")[1]: d.text for d in parts["all"] if d.name.startswith(TOPICS)}
    assert len(topics) > 50
    assert '"for" statement' in topics["for"]
    assert "\\n" not in topics["for"]
    assert topics["for"].count("\n") > 10


def write_library(folder: Path, *, topics: str = "topics = {'b': 'text of b', 'a': 'text of a'}") -> Path:
    """Write a small standard library, as another Python would have it."""
    files = {
        "zebra.py": b"z = 1\r\n",
        "latin.py": "# -*- coding: latin-1 -*-\ns = 'ü'\n".encode("latin-1"),
        "pack/inner.py": "ü = 2\n".encode(),
        "test/test_x.py": b"bad",
        "encodings/cp1.py": b"bad",
        "lib2to3/tests/data/py2.py": b"\xff",
        "lib2to3/tests/support.py": b"good",
        "pack/site-packages/x.py": b"bad",
        "site-packages/y.py": b"bad",
        "config-3.99-x/z.py": b"bad",
        "_sysconfigdata_x.py": b"bad",
        TOPICS: topics.encode(),
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_documents_of_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "MIN_SOURCE_BYTES", 10)
    assert list(documents(library=write_library(tmp_path))) == [
        Document("# -*- coding: latin-1 -*-\ns = 'ü'\n", "latin.py"),
        Document("good", "lib2to3/tests/support.py"),
        Document("ü = 2\n", "pack/inner.py"),
        Document("text of a", f"{TOPICS}#a"),
        Document("text of b", f"{TOPICS}#b"),
        Document("z = 1\n", "zebra.py"),
    ]


def test_a_library_without_sources_or_topics_is_refused(tmp_path: Path) -> None:
    write_library(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"lacks the source of the modules \(found 5 files with \d+ bytes\); this"
    ):
        documents(library=tmp_path)
    (tmp_path / TOPICS).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"the source of the modules .* and pydoc_data/topics\.py; .*libpython3"
    ):
        documents(library=tmp_path)
    with pytest.raises(FileNotFoundError, match="found 0 files with 0 bytes"):
        documents(library=tmp_path / "python39.zip")


def test_a_damaged_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "MIN_SOURCE_BYTES", 10)
    with pytest.raises(ValueError, match="has no dictionary of topics"):
        list(documents(library=write_library(tmp_path / "a", topics="x = 1")))
    (write_library(tmp_path / "b") / "zebra.py").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"zebra\.py is not in the encoding that it declares"):
        list(documents(library=tmp_path / "b"))


@pytest.mark.parametrize("options", [{"part": "test"}, {"held_out": 1.5}])
def test_invalid_arguments_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="part must be 'train', 'held_out' or 'all', and held_out in"):
        documents(**options)


def test_the_running_python_is_read(parts: dict[str, list[Document]]) -> None:
    path = Path(sysconfig.get_path("stdlib")) / "enum.py"
    assert Document(path.read_text(encoding="utf8"), "enum.py") in parts["all"]
