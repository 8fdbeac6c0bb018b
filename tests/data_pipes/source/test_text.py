"""`source.text`: text files as documents, and the files of a folder."""

import gzip
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.source import text as text_module
from data_pipes.source.text import files, open_binary, text_documents
from data_pipes.types import BadRow, Document


def write_file(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def texts(path: Path, **options: object) -> list[str]:
    return [document.text for document in text_documents(path, **options)]  # type: ignore[arg-type]


def test_a_file_is_one_document(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.txt", "Grüße\r\n\nend".encode())
    assert list(text_documents(path)) == [Document("Grüße\r\n\nend", str(path))]


def test_a_separator_splits_a_file_into_documents(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.txt", b"one<|end|>two\n<|end|>\n \n<|end|>three<|end|>")
    found = list(text_documents(path, separator="<|end|>"))
    assert found == [Document(text, f"{path}#{i}") for i, text in enumerate(["one", "two\n", "three"])]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
def test_the_block_size_does_not_change_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Multi-byte characters and separators lie across the boundaries of blocks."""
    monkeypatch.setattr(text_module, "_BLOCK", block)
    path = write_file(tmp_path / "a.txt", "\ufeffäö€😀--b--\n--ç".encode())
    assert texts(path, separator="--") == ["äö€😀", "b", "ç"]
    assert texts(path) == ["äö€😀--b--\n--ç"]


def test_a_long_document_is_split_at_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "PIECE", 10)
    monkeypatch.setattr(text_module, "_BLOCK", 4)
    text = "aaaa\nbbbb\ncccc\n" + 30 * "d" + "\ne"
    path = write_file(tmp_path / "a.txt", text.encode())
    pieces = list(text_documents(path))
    assert "".join(piece.text for piece in pieces) == text
    assert pieces[0] == Document("aaaa\nbbbb\n", f"{path}#0")
    assert max(len(piece.text) for piece in pieces) <= 10 + 4
    assert len({piece.name for piece in pieces}) == len(pieces)


def test_an_empty_file_is_an_empty_document(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.txt", b"")
    assert list(text_documents(path)) == [Document("", str(path))]


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.txt.gz", gzip.compress(b"packed"))
    assert texts(path) == ["packed"]
    with open_binary(path) as file:
        assert file.read() == b"packed"


@pytest.mark.parametrize("block", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    ("data", "offset", "byte"),
    [
        (b"abc\xffdef", 3, "ff"),
        ("Grüße".encode("latin-1"), 2, "fc"),
        (b"x\xc3(", 1, "c3"),
        (b"ok\xe2\x82", 2, "e2"),
        (b"\xef\xbb\xbfab\x80", 5, "80"),
    ],
)
def test_bytes_that_are_not_utf8_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, offset: int, byte: str, block: int
) -> None:
    monkeypatch.setattr(text_module, "_BLOCK", block)
    path = write_file(tmp_path / "a.txt", data)
    with pytest.raises(
        ValueError, match=rf"a\.txt: byte 0x{byte} at offset {offset} is not utf-8; .*iconv -f LATIN1"
    ):
        texts(path)


@given(data=st.binary(max_size=40), separator=st.sampled_from([None, "\n", "--"]))
def test_arbitrary_bytes_give_their_text_or_a_named_file(data: bytes, separator: str | None) -> None:
    bad: list[BadRow] = []
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / "a.txt", data)
        found = "".join(d.text for d in text_documents(path, separator=separator, on_bad=bad.append))
    try:
        expected = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        expected = "\0"
    if "\0" in expected:
        assert len(bad) == 1
    elif separator is None:
        assert found == expected
    else:  # blank parts are left out
        assert (
            "".join(part for part in expected.split(separator) if part.strip()) == found or not found.strip()
        )


def test_another_encoding_is_read_if_given(tmp_path: Path) -> None:
    assert texts(write_file(tmp_path / "a.txt", "Grüße".encode("latin-1")), encoding="latin-1") == ["Grüße"]
    assert texts(write_file(tmp_path / "b.txt", "Grüße".encode("utf-16")), encoding="utf-16") == ["Grüße"]


def test_a_binary_file_is_named(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.bin", b"text\x00more")
    with pytest.raises(ValueError, match=r"a\.bin: a binary file, with a zero byte at offset 4"):
        texts(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("length", [0, 3, (1 << 20) + 5])
def test_the_offset_of_a_zero_byte_is_that_in_the_file(length: int, encoding: str, tmp_path: Path) -> None:
    data = ("é" * length).encode(encoding)
    path = write_file(tmp_path / "a.txt", data + "\0x".encode(encoding)[len("".encode(encoding)) :])
    with pytest.raises(ValueError, match=f"a zero byte at offset {len(data)};"):
        texts(path, encoding=encoding)


def test_a_link_whose_file_is_gone_is_refused(tmp_path: Path) -> None:
    """It was left out without a word."""
    write_file(tmp_path / "a.txt", b"text")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    (tmp_path / ".hidden").symlink_to(tmp_path / "gone")
    assert len(files(tmp_path)) == 2
    (tmp_path / "c.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(
        FileNotFoundError, match=r"c\.txt is a link to .*gone, which is not there; remove the"
    ):
        files(tmp_path)


@pytest.mark.parametrize(
    "data", [gzip.compress(b"x" * 10_000, mtime=0)[:-9], b"no gzip"], ids=["cut", "other"]
)
def test_a_damaged_compressed_file_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"a\.gz: the compressed file is damaged .*; copy it again"):
        texts(write_file(tmp_path / "a.gz", data))


def test_a_bad_file_is_skipped_and_reported(tmp_path: Path) -> None:
    bad: list[BadRow] = []
    path = write_file(tmp_path / "a.txt", b"good--bad\xff--lost")
    assert list(text_documents(path, separator="--", on_bad=bad.append)) == []
    assert [(row.name, row.reason.split(";")[0]) for row in bad] == [
        (str(path), "byte 0xff at offset 9 is not utf-8")
    ]


def test_files_of_a_folder_are_sorted_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/.hidden", ".git/x", "C.txt"):
        write_file(tmp_path / name, b"x")
    assert [p.relative_to(tmp_path).as_posix() for p in files(tmp_path)] == ["C.txt", "a/z.txt", "b.txt"]
    assert files(tmp_path / "b.txt") == [tmp_path / "b.txt"]


def test_a_folder_whose_own_name_is_hidden_is_read(tmp_path: Path) -> None:
    write_file(tmp_path / ".cache" / "a.txt", b"x")
    assert len(files(tmp_path / ".cache")) == 1


def test_a_missing_path_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*nowhere"):
        files(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no file; put text"):
        files(tmp_path)


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(ValueError, match="must be a regular file or a folder"):
            files(path)
