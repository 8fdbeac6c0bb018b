"""`intro2llm card`: the model card of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from stages.cli.notice import say_waiting


@dataclass(frozen=True, kw_only=True)
class CardOptions:
    """Write the model card of a run, final_model/README.md, from the run's own files.

    A run writes one at its end; after an evaluation this adds the figures. Only what is between the card's
    markers is rewritten: what you write elsewhere in it, a licence in the front matter too, stays.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run: the --output_dir of a training stage."""
    evaluations: tuple[str, ...] = ()
    """Folders of evaluations of the run's model, the --output_dir of `intro2llm evaluate`; those inside the
    run's folder are found without this."""


def run(options: CardOptions) -> int:
    """Reads the run, writes the card, and prints its path.

    Returns:
        The exit code.

    Raises:
        ValueError, FileNotFoundError, OSError: as `stages.card.write.write_card`.
    """
    say_waiting(f"reading {options.run}")
    from stages.card.write import write_card

    print(write_card(options.run, options.evaluations))
    return 0
