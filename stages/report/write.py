"""Write the page of runs, from the command line or at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_pipes.files import write_atomically, writing
from stages.report.record import read_run

NAME = "report.html"
INSTALL = "pip install 'intro2llm[report]'"


def write_report(folders: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Read runs, and write their page.

    Args:
        folders: of the runs, at least one.
        output: file to write; None is report.html, in the folder of one run, or in the current one.

    Returns:
        The path of the page.

    Raises:
        ImportError: without bokeh.
        FileNotFoundError, ValueError: as `stages.report.record.read_run`; for the same run twice; for an
            output that is a folder.
        OSError: if the page cannot be written.
    """
    try:
        import bokeh  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}; report needs {INSTALL}") from None
    from stages.report.page import make_page

    labels = name_runs(folders)
    runs = [read_run(folder) for folder in folders]
    home = runs[0].folder if len(runs) == 1 else Path()
    path = Path(output) if output else home / NAME
    if path.is_dir():
        raise ValueError(f"--output: expected a file, and {path} is a folder; give {path / NAME}")
    page = make_page(runs, labels).encode(errors="backslashreplace")
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path):
        write_atomically(path, page)
    return path


def write_at_end(folder: str | Path, say: Callable[[str], Any]) -> None:
    """Write the page of a run that has ended; an error is one line, as the run itself is complete.

    Args:
        folder: of the run.
        say: prints what to install, or what went wrong; a page that is written is not announced.
    """
    try:
        write_report([folder])
    except ImportError:
        say(f"no {NAME} was written: {INSTALL} brings what draws it; then intro2llm report {folder}")
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        say(f"warning: {NAME} was not written ({reason[:300]}); the run is not affected")


def name_runs(folders: Sequence[str | Path]) -> list[str]:
    """Name runs by the ends of their paths, as short as they are different.

    Args:
        folders: of the runs.

    Returns:
        A name for each.

    Raises:
        ValueError: if two are the same folder.

    Example:
        >>> name_runs(["/runs/a/sft", "/runs/b/sft"])
        ['a/sft', 'b/sft']
    """
    paths = [Path(folder).resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path} is given twice; give each run once")
    longest = max(len(path.parts) for path in paths)
    for length in range(1, longest + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
