"""The folder of a learner: started, upgraded, reset, listed; nothing in it is lost."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.teach import edition
from stages.teach.course import COURSE, course_modules, exercises_of_module
from stages.teach.edition import reset, start
from stages.teach.originals import plan_files
from stages.teach.progress import list_progress
from stages.teach.record import FOLDER, RECORD, read_record
from tests.rules.source import ROOT

DPO = "pure/loss/dpo.py"
LEFT = 'raise Unsolved("dpo_loss")'
WORK = "helper = 3  # mine\n    return helper"
TOTAL = sum(len(chapter.exercises) for chapter in COURSE)


@pytest.fixture(name="my", scope="module")
def make_edition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new edition, to copy."""
    folder = tmp_path_factory.mktemp("edition") / "my"
    start(folder)
    return folder


@pytest.fixture(name="folder")
def copy_edition(my: Path, tmp_path: Path) -> Path:
    """A new edition of the test's own."""
    return Path(shutil.copytree(my, tmp_path / "my"))


def solve(folder: Path, work: str = WORK) -> bytes:
    """Solve an exercise, and return the bytes of its file."""
    path = folder / DPO
    path.write_text(path.read_text().replace(LEFT, work))
    return path.read_bytes()


def upgrade(monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str]) -> None:
    """Let the package have another version of a file."""
    files = plan_files("en", "steps")
    files[DPO] = change(files[DPO])
    monkeypatch.setattr(edition, "plan_files", lambda lang, level: files)


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files outside `.intro2llm`."""
    paths = [path for path in folder.rglob("*") if path.is_file() and FOLDER not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def backups(folder: Path) -> list[bytes]:
    """The contents of the backups."""
    return [path.read_bytes() for path in sorted((folder / FOLDER / "backup").rglob("*.py"))]


def test_a_new_edition_has_the_files_of_the_course(my: Path) -> None:
    assert snapshot(my) == {path: text.encode() for path, text in plan_files("en", "steps").items()}
    record = read_record(my)
    assert (record.lang, record.level, len(record.files)) == ("en", "steps", len(snapshot(my)))
    assert {Path(path).suffix for path in record.files} == {".py", ".md"}


def test_start_and_list_take_seconds_and_no_torch(tmp_path: Path) -> None:
    """The processor's time is measured, as other tests run at the same time."""
    code = (
        "import sys; from pathlib import Path\n"
        "from stages.teach import edition; from stages.teach.progress import list_progress\n"
        f"edition.start(Path({str(tmp_path / 'my')!r})); list_progress(Path({str(tmp_path / 'my')!r}))\n"
        "print([n for n in sys.modules if n.split('.')[0] in ('torch', 'numpy', 'pure')])"
    )
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < 4


def test_starting_again_changes_nothing(folder: Path) -> None:
    solve(folder)
    before = snapshot(folder)
    report = start(folder)
    assert (report.new, report.lines, report.exercises) == (False, (), TOTAL)
    assert snapshot(folder) == before


def test_a_level_can_be_changed_and_work_is_kept(folder: Path) -> None:
    work = solve(folder)
    report = start(folder, level="docstring")
    files = plan_files("en", "docstring")
    changed = [path for path, text in plan_files("en", "steps").items() if files[path] != text]
    assert len(report.lines) == len(changed)
    after = snapshot(folder)
    assert {path: after[path] for path in changed if path != DPO} == {
        path: files[path].encode() for path in changed if path != DPO
    }
    assert after[DPO].decode() == files[DPO].replace(
        "    " + LEFT, work.decode().split('    """\n')[2].split("\n\n\ndef ")[0]
    )
    assert backups(folder) == [work]
    assert read_record(folder).level == "docstring"
    assert start(folder).lines == ()


def test_a_hidden_entry_does_not_make_a_folder_full(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert start(tmp_path).new


def test_other_folders_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"neither empty nor a student edition \(it holds notes.txt\)"):
        start(tmp_path)
    with pytest.raises(NotADirectoryError, match="is a file"):
        start(tmp_path / "notes.txt")
    with pytest.raises(NotADirectoryError, match=r"notes\.txt is a file"):
        start(tmp_path / "notes.txt" / "my")
    with pytest.raises(ValueError, match="not in 'zz'"):
        start(tmp_path / "new", lang="zz")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_start_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(edition, "write_atomically", fail)
        with pytest.raises(OSError, match="cannot write"):
            start(tmp_path / "my")
    report = start(tmp_path / "my")
    assert len(report.lines) == len(plan_files("en", "steps"))
    assert start(tmp_path / "my").lines == ()


def test_deleted_and_moved_files_are_written_again(folder: Path) -> None:
    solve(folder)
    (folder / DPO).rename(folder / "dpo_moved.py")
    shutil.rmtree(folder / "chapters")
    report = start(folder)
    assert f"written again: {DPO} was deleted or moved" in report.lines
    assert snapshot(folder)[DPO] == plan_files("en", "steps")[DPO].encode()
    assert WORK.encode() in (folder / "dpo_moved.py").read_bytes()
    assert len(report.lines) == 1 + sum(1 for chapter in COURSE if chapter.exercises)


def test_an_upgrade_replaces_what_was_not_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade(monkeypatch, lambda text: text + "\nNEW = 1\n")
    assert start(folder).lines == (f"updated {DPO}, which you had not changed",)
    assert (folder / DPO).read_text().endswith("\nNEW = 1\n")
    assert start(folder).lines == ()


@pytest.mark.parametrize("form", ["plain", "crlf", "bom"])
def test_an_upgrade_keeps_work_endings_and_a_backup(
    folder: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    data = solve(folder)
    if form == "crlf":
        data = data.replace(b"\n", b"\r\n")
    elif form == "bom":
        data = b"\xef\xbb\xbf" + data
    (folder / DPO).write_bytes(data)
    upgrade(monkeypatch, lambda text: text + "\nNEW = 1\n")
    (line,) = start(folder).lines
    assert line.startswith(f"updated {DPO}; kept your dpo_loss; the file as it was is {FOLDER}/backup/")
    assert backups(folder) == [data]
    ending = b"\r\n" if form == "crlf" else b"\n"
    assert (folder / DPO).read_bytes() == data + ending + b"NEW = 1" + ending
    assert start(folder).lines == ()


def test_an_upgrade_tells_signatures_and_exercises_that_vanished(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve(folder)
    upgrade(monkeypatch, lambda text: text.replace("    margin: float | Tensor = 0.5,\n", ""))
    merged, signature = start(folder).lines
    assert "kept your dpo_loss" in merged
    assert signature.startswith("dpo_loss: the signature is now def dpo_loss(policy_chosen, ")
    upgrade(monkeypatch, lambda text: text.replace(LEFT, "return None"))
    monkeypatch.setattr(edition, "exercises_of_module", lambda module: ())
    _, vanished = start(folder).lines
    assert vanished.startswith(f"dpo_loss in {DPO} is no longer an exercise; yours is in {FOLDER}/backup/")
    assert WORK.encode() in backups(folder)[-1]


def test_a_file_that_is_no_longer_in_the_course_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = solve(folder)
    files = plan_files("en", "steps")
    del files[DPO]
    monkeypatch.setattr(edition, "plan_files", lambda lang, level: files)
    assert start(folder).lines == (f"{DPO} has no exercise any more; it is left as it is",)
    assert (folder / DPO).read_bytes() == work
    assert start(folder).lines == ()


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"def dpo_loss(:\n", "line 1: "), (b"# \xff\n", "not UTF-8, byte 2; save it as UTF-8")],
)
def test_an_upgrade_leaves_a_file_that_cannot_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, reason: str
) -> None:
    (folder / DPO).write_bytes(data)
    upgrade(monkeypatch, lambda text: text + "\nNEW = 1\n")
    for _ in range(2):  # it is told until it is corrected
        (line,) = start(folder).lines
        assert reason in line
        assert (folder / DPO).read_bytes() == data


def test_a_page_that_the_learner_changed_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "README.md").write_text("my notes")
    assert start(folder).lines == ()
    files = plan_files("en", "steps") | {"README.md": "new"}
    monkeypatch.setattr(edition, "plan_files", lambda lang, level: files)
    assert start(folder).lines == (
        "kept your README.md; ours has changed: delete it and start again to have ours",
    )
    assert (folder / "README.md").read_text() == "my notes"


def test_reset_takes_the_body_out_and_keeps_a_backup(folder: Path) -> None:
    before = (folder / DPO).read_bytes()
    work = solve(folder)
    said = reset(folder, "dpo_loss")
    assert said.startswith(
        f"dpo_loss: the body is taken out of {DPO}; the file as it was is {FOLDER}/backup/"
    )
    assert (folder / DPO).read_bytes() == before
    assert (folder / said.rpartition(" ")[2]).read_bytes() == work
    reset(folder, "dpo_loss")
    assert len(backups(folder)) == 2


@pytest.mark.parametrize("form", ["crlf", "bom", "tabs", "renamed", "broken", "missing"])
def test_reset_of_files_in_other_states(folder: Path, form: str) -> None:
    before = (folder / DPO).read_bytes()
    data = solve(folder)
    change = {
        "crlf": lambda text: text.replace(b"\n", b"\r\n"),
        "bom": lambda text: b"\xef\xbb\xbf" + text,
        "tabs": lambda text: text + b"\n\ndef mine(x):\n\treturn x\n",
        "renamed": lambda text: text.replace(b"def dpo_loss(", b"def my_loss("),
        "broken": lambda text: text.replace(b"return helper", b"return (helper"),
    }
    if form == "missing":
        (folder / DPO).unlink()
    else:
        data = change[form](data)
        (folder / DPO).write_bytes(data)
    said = reset(folder, "dpo_loss")
    after = (folder / DPO).read_bytes()
    if form == "renamed":
        assert "was not in" in said
        assert after.startswith(data)
        assert list_progress(folder).problems == ()
    elif form in ("missing", "broken"):
        assert after == before
    else:
        assert after == change[form](before)
    assert backups(folder) == ([] if form == "missing" else [data])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"# \xff\n", "cannot be read: not UTF-8, byte 2"),
        (b"x = (\n" * 3 + b"def dpo_loss(): pass\n", "does not parse outside of dpo_loss, line"),
    ],
)
def test_reset_refuses_what_it_cannot_keep(folder: Path, data: bytes, message: str) -> None:
    (folder / DPO).write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        reset(folder, "dpo_loss")
    assert "\n" not in str(caught.value)
    assert (folder / DPO).read_bytes() == data
    assert backups(folder) == []


def test_reset_names_what_it_does_not_know(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'dpo_loss'"):
        reset(folder, "dpo_los")
    with pytest.raises(FileNotFoundError, match="is not a student edition"):
        reset(tmp_path, "dpo_loss")


def test_progress_counts_what_is_solved(folder: Path) -> None:
    progress = list_progress(folder)
    assert (sum(c.total for c in progress.chapters), sum(c.solved for c in progress.chapters)) == (TOTAL, 0)
    first = next(exercise for chapter in COURSE for exercise in chapter.exercises)
    assert (progress.next, progress.problems) == (first, ())
    solve(folder)
    after = list_progress(folder)
    (one,) = [c for c, before in zip(after.chapters, progress.chapters, strict=True) if c != before]
    assert (one.solved, one.passed, after.next) == (1, 0, first)


def test_progress_tells_files_that_cannot_be_read(folder: Path) -> None:
    (folder / DPO).write_text("x = 1\ndef dpo_loss(:\n")
    (folder / "pure/loss/ppo.py").unlink()
    (folder / "pure/loss/kto.py").write_bytes(b"\xff")
    problems = list_progress(folder).problems
    assert len(problems) == 3
    assert any(problem.startswith(f"{DPO}, line 2: ") for problem in problems)
    assert any(problem.startswith("pure/loss/ppo.py is missing; ") for problem in problems)
    assert "pure/loss/kto.py cannot be read: not UTF-8, byte 0; save it as UTF-8" in problems


def test_progress_tells_a_function_that_was_renamed(folder: Path) -> None:
    path = folder / DPO
    path.write_text(path.read_text().replace("def dpo_loss(", "def my_loss("))
    assert list_progress(folder).problems == (
        f"{DPO} has no function dpo_loss at its top level; `intro2llm exercises reset {folder} dpo_loss` adds it",
    )


def test_a_folder_in_the_place_of_a_file_is_told(folder: Path) -> None:
    (folder / DPO).unlink()
    (folder / DPO).mkdir()
    assert start(folder).lines == (f"{DPO} cannot be read: it is a folder",)
    (problem,) = list_progress(folder).problems
    assert problem.startswith(f"{DPO} cannot be read: ")


def test_progress_ends_when_all_is_solved_and_checked(folder: Path) -> None:
    for module in course_modules():
        path = folder / (module.replace(".", "/") + ".py")
        text = path.read_text()
        for exercise in exercises_of_module(module):
            text = text.replace(f'raise Unsolved("{exercise.name}")', "return 1")
        path.write_text(text)
    progress = list_progress(folder)
    assert sum(chapter.minutes for chapter in progress.chapters) == 0
    assert progress.next == COURSE[0].exercises[0]  # written, but not checked


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot write"):
        start(tmp_path)


def test_a_damaged_record_is_refused_by_all(folder: Path) -> None:
    (folder / RECORD).write_text("{")
    for action in (lambda: start(folder), lambda: reset(folder, "dpo_loss"), lambda: list_progress(folder)):
        with pytest.raises(ValueError, match=r"edition\.json is damaged: not valid JSON"):
            action()
