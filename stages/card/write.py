"""Write the card of a run, from the command line or at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_pipes.files import write_atomically, writing
from stages.card.record import read_facts
from stages.card.section import merge
from stages.card.text import make_body, make_front
from stages.models.hub import CARD
from stages.run.config_file import MODEL


def write_card(folder: str | Path, evaluations: Sequence[str | Path] = ()) -> Path:
    """Write the model card of a run, or the generated sections of the one that it has.

    What a user wrote outside the sections stays as it is. The card is not in SHA256SUMS, so that an edited
    one does not make the model refuse to load (`stages.models.checksums`).

    Args:
        folder: of a run with a final_model.
        evaluations: folders of evaluations of its model, besides those in the run's folder.

    Returns:
        RUN/final_model/README.md.

    Raises:
        FileNotFoundError, ValueError: as `stages.card.record.read_facts` and `stages.card.section.merge`; the
            message names the file.
        OSError: if the card cannot be written.
    """
    folder = Path(folder)
    facts = read_facts(folder, [Path(each) for each in evaluations])
    path = folder / MODEL / CARD
    home = str(Path.home())
    try:
        old = path.read_bytes().decode() if path.is_file() else None
        card = merge(old, make_front(facts, home), make_body(facts, home), facts.name)
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"{path}: {error}") from None
    data = card.encode()
    if old is None or data != old.encode():
        with writing(path):
            write_atomically(path, data)
    return path


def write_at_end(folder: str | Path, say: Callable[[str], Any]) -> None:
    """Write the card of a run that has ended, if it has a model; an error is one line.

    Args:
        folder: of the run.
        say: prints what went wrong; a card that is written is not announced.
    """
    if not (Path(folder) / MODEL).is_dir():
        return
    try:
        write_card(folder)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        say(f"warning: the model card was not written ({reason[:400]}); the run is not affected")
