"""`data_pipes.store`: the token store on disk is written atomically and verified on load."""

import errno
import fcntl
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipes.digest import hash_json
from data_pipes.store import open_store, write_store
from data_pipes.tokens import memory_store

DOCUMENTS = [[1, 2, 3], [], [4], [5, 6, 300]]


def write(path: Path, documents: object = DOCUMENTS, vocab_size: int = 400) -> None:
    write_store(path, documents, vocab_size=vocab_size, tokenizer="print")  # type: ignore[arg-type]


@pytest.mark.parametrize("vocab_size", [400, 100_000])
def test_a_store_on_disk_equals_one_in_memory(tmp_path: Path, vocab_size: int) -> None:
    write(tmp_path / "s", vocab_size=vocab_size)
    stored, in_memory = (
        open_store(tmp_path / "s"),
        memory_store(DOCUMENTS, vocab_size=vocab_size, tokenizer="print"),
    )
    assert stored.tokens.tolist() == in_memory.tokens.tolist() == [1, 2, 3, 4, 5, 6, 300]
    assert stored.ends.tolist() == in_memory.ends.tolist() == [3, 4, 7]
    assert stored.tokens.dtype == in_memory.tokens.dtype
    assert (stored.digest, stored.tokenizer, stored.vocab_size) == (in_memory.digest, "print", vocab_size)


def test_opening_a_store_maps_it_without_reading(tmp_path: Path) -> None:
    """Opening and reading one token of 128 MiB touches next to nothing."""
    write(tmp_path / "s", (np.zeros(1 << 21, np.uint16) for _ in range(32)))
    code = (
        "import sys, resource; from data_pipes.store import open_store\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "store = open_store(sys.argv[1], verify=False); store.tokens[54321987]\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=True
    )
    assert int(out.stdout) < 8 * 1024  # KiB


def test_write_store_uses_little_memory(tmp_path: Path) -> None:
    """128 MiB of ids given in pieces are written with less than 24 MiB of memory."""
    code = (
        "import sys, resource, numpy as np; from data_pipes.store import write_store\n"
        "write_store(sys.argv[1] + 'a', [[1]], vocab_size=9)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "write_store(sys.argv[1], (np.ones(1 << 16, np.int32) for _ in range(512)), vocab_size=9)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=True
    )
    assert int(out.stdout) < 24 * 1024  # KiB


def test_the_arrays_of_a_store_are_read_only(tmp_path: Path) -> None:
    write(tmp_path / "s")
    with pytest.raises(ValueError, match="read-only"):
        open_store(tmp_path / "s").tokens[0] = 1


def test_a_store_is_pickled_as_its_path(tmp_path: Path) -> None:
    write(tmp_path / "s", [np.zeros(100_000, int)])
    store = open_store(tmp_path / "s")
    data = pickle.dumps(store)
    assert len(data) < 1000
    assert pickle.loads(data).digest == store.digest


def test_another_corpus_at_the_pickled_path_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s")
    data = pickle.dumps(open_store(tmp_path / "s"))
    (tmp_path / "s").rename(tmp_path / "old")
    write(tmp_path / "s", [[1]])
    with pytest.raises(ValueError, match="another corpus than when the pipe was pickled"):
        pickle.loads(data)


def test_an_existing_store_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "s")
    with pytest.raises(FileExistsError, match="exists already; open it with open_store, or remove it"):
        write(tmp_path / "s", [[1]])
    assert open_store(tmp_path / "s").tokens.tolist() == [1, 2, 3, 4, 5, 6, 300]


def documents_then_error(error: Exception) -> Iterator[list[int]]:
    yield [1, 2, 3]
    raise error


@pytest.mark.parametrize("error", [RuntimeError("source broke"), OSError(errno.EIO, "source broke")])
def test_an_error_of_the_source_passes_through_and_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error), match="source broke") as caught:
        write(tmp_path / "s", documents_then_error(error))
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_an_empty_corpus_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the corpus has no token"):
        write(tmp_path / "s", [[], []])
    assert list(tmp_path.iterdir()) == []


def write_with_file_size_limit(path: Path, size: int) -> subprocess.CompletedProcess[str]:
    """Write 2 MiB of ids in a process whose files may have at most `size` bytes."""
    code = (
        "import sys, resource, numpy as np; from data_pipes.store import write_store\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "try: write_store(sys.argv[1], (np.ones(1 << 10, np.int32) for _ in range(1 << 10)), vocab_size=9)\n"
        "except OSError as error: print(error); sys.exit(3)"
    )
    return subprocess.run([sys.executable, "-c", code, str(path), str(size)], capture_output=True, text=True)


def test_a_file_that_may_not_grow_leaves_nothing(tmp_path: Path) -> None:
    for size in (100, 1 << 20):
        done = write_with_file_size_limit(tmp_path / "s", size)
        assert done.returncode == 3, done.stderr
        assert "no room for" in done.stdout
        assert "the partial store was removed; make room" in done.stdout
        assert list(tmp_path.iterdir()) == []
    assert write_with_file_size_limit(tmp_path / "s", 1 << 22).returncode == 0


@pytest.mark.parametrize("call", ["os.fsync", "os.rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_call_leaves_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Each fsync (two arrays, manifest, folder, parent) and the rename fail in turn."""
    name = call.split(".")[1]
    original: Callable = getattr(os, name)
    calls = 5 if name == "fsync" else 1
    for failing_call in range(calls):
        past_calls = []

        def fail_once(
            *args: object, past_calls: list = past_calls, failing_call: int = failing_call
        ) -> object:
            past_calls.append(args)
            if len(past_calls) == failing_call + 1:
                raise OSError(number, os.strerror(number))
            return original(*args)

        target = tmp_path / f"s{failing_call}"
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail_once)
            with pytest.raises(OSError, match=os.strerror(number)):
                write(target)
        if target.exists():
            assert (name, failing_call) == ("fsync", 4)  # only the parent's sync comes after the rename
            assert open_store(target).tokens.tolist() == [1, 2, 3, 4, 5, 6, 300]
        assert not (tmp_path / f".s{failing_call}.partial").exists()


def test_a_killed_writer_leaves_no_store_and_is_cleaned_up(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal, numpy as np; from data_pipes.store import write_store\n"
        "def ids():\n"
        "    yield np.ones(1 << 23, np.int32)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_store(sys.argv[1], ids(), vocab_size=9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")])
    assert done.returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == [".s.partial"]
    write(tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    partial = tmp_path / ".s.partial"
    partial.mkdir()
    with open(partial / "tokens.bin", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FileExistsError, match="another process is writing"):
            write(tmp_path / "s")
        assert partial.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot make .*file.s .*; pass a folder that can be written"):
        write(tmp_path / "file" / "s")

    def deny(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", deny)
    with pytest.raises(PermissionError, match=r"cannot make .*new.s \(Permission denied\)"):
        write(tmp_path / "new" / "s")


def flip_bit(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["tokens.bin", "documents.bin"])
def test_a_flipped_bit_a_wrong_size_and_a_missing_array_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "s")
    file = tmp_path / "s" / name
    size = file.stat().st_size
    for place in range(size):
        flip_bit(file, place)
        with pytest.raises(ValueError, match=rf"{name} is damaged: .*; write the store again"):
            open_store(tmp_path / "s")
        flip_bit(file, place)
    for length in (0, size - 1, size + 1):
        os.truncate(file, length)
        for verify in (True, False):
            with pytest.raises(
                ValueError, match=rf"{name} is damaged: it should have {size} bytes and has {length}"
            ):
                open_store(tmp_path / "s", verify=verify)
        write(tmp_path / f"again{length}")
        file.write_bytes((tmp_path / f"again{length}" / name).read_bytes())
    file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing"):
        open_store(tmp_path / "s")


def test_a_flipped_bit_of_the_manifest_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s")
    file = tmp_path / "s" / "manifest.json"
    data = file.read_bytes()
    for bit in range(0, 8 * len(data), 13):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            same = json.loads(changed) == json.loads(data)  # a space became a tab, or the like
        except ValueError:
            same = False
        if not same:
            file.write_bytes(changed)
            with pytest.raises(ValueError, match=r"manifest\.json"):
                open_store(tmp_path / "s", verify=False)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000, '{"format": "x"}', "\xff"])
def test_an_invalid_manifest_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path / "s")
    (tmp_path / "s" / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        open_store(tmp_path / "s")


def test_a_manifest_with_a_right_digest_and_wrong_counts_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s")
    file = tmp_path / "s" / "manifest.json"
    good = {name: value for name, value in json.loads(file.read_text()).items() if name != "digest"}
    for change in ({"tokens": -1}, {"tokens": "7"}, {"documents": 0}, {"vocab_size": True}, {"tokens": 6}):
        fields = {**good, **change}
        file.write_text(json.dumps({**fields, "digest": hash_json(fields)}))
        with pytest.raises(ValueError, match="is damaged"):
            open_store(tmp_path / "s")


def test_a_folder_that_is_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere.*write_store"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer": ...}, "tokenizer is null, expected a fingerprint"),
        ({"tokenizer": [1]}, r"tokenizer is \[1\]"),
        ({"sha256": {"tokens.bin": "a"}}, "expected a digest for each of"),
        ({"sha256": [[1]]}, r"sha256 is \[\[1\]\]"),
        ({"sha256": {"tokens.bin": "a", "documents.bin": -0.0}}, "sha256 is"),
        ({"tokens": True}, "tokens is true"),
        ({"documents": 10**30}, "documents is 1"),
        ({"vocab_size": 2**33}, "vocab_size is"),
        ({"tokens": ...}, "tokens is null"),
        ({"format": {"a": 1}}, "has format"),
    ],
)
def test_a_manifest_with_a_right_digest_and_invalid_fields_is_refused(
    change: dict, words: str, tmp_path: Path
) -> None:
    write(tmp_path / "s")
    path = tmp_path / "s" / "manifest.json"
    fields = {**json.loads(path.read_text()), **change}
    fields = {name: value for name, value in fields.items() if name != "digest" and value is not ...}
    path.write_text(json.dumps({**fields, "digest": hash_json(fields)}))
    with pytest.raises(ValueError, match=words) as caught:
        open_store(tmp_path / "s")
    assert "manifest.json" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
