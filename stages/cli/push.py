"""`intro2llm push`: upload a model to the Hugging Face hub."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Push a model to the Hugging Face hub: weights, tokenizer, configuration, templates, card, SHA256SUMS.

    Nothing else of a run is sent. The token is that of `hf auth login`, or HF_TOKEN.
    """

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder of a complete run, whose final_model is pushed, or of a model."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPOSITORY")]
    """OWNER/NAME on the hub."""
    private: bool = False
    """Make the repository private; one that exists must be private already."""
    update: bool = False
    """Push into a repository, or a branch, that holds files: its model and its card are replaced; earlier
    commits keep them."""
    revision: str | None = None
    """Branch, which is made if it is missing; None is main."""
    base_model: str | None = None
    """Of adapters: OWNER/NAME of their base on the hub, in place of its path here."""
    endpoint: str | None = None
    """Address of the hub; None is https://huggingface.co, or HF_ENDPOINT."""
    dry_run: bool = False
    """Verify the files and print what would be sent; nothing is sent."""


def run(options: PushOptions) -> int:
    """Verifies the model's files, pushes them, and prints the address of the commit.

    Returns:
        The exit code.

    Raises:
        ValueError, FileNotFoundError, OSError, ImportError: as `stages.models.push`.
    """
    print(f"verifying {options.folder}", file=sys.stderr, flush=True)
    from stages.models import hub, push

    push.check_names(options.repository, options.revision, options.endpoint)
    upload = push.plan(options.folder, options.base_model)
    total = sum(map(push.size_of, upload.files.values()))
    for name, file in upload.files.items():
        print(f"{push.size_of(file):>15,} {name}{' (with the name of the base)' * isinstance(file, bytes)}")
    if upload.left_out:
        print(f"not sent: {', '.join(upload.left_out)}")
    if upload.base:
        print(f"base of the adapters, on the hub: {upload.base}")
    if hub.CARD not in upload.files:
        print("there is no model card; intro2llm card RUN writes one")
    if options.dry_run:
        print(f"would push {len(upload.files)} files, {total / 1e6:,.1f} MB, to {options.repository}")
        return 0
    print(f"pushing {len(upload.files)} files, {total / 1e6:,.1f} MB, to {options.repository}", flush=True)
    url = push.push(
        upload,
        options.repository,
        private=options.private,
        revision=options.revision,
        endpoint=options.endpoint,
        update=options.update,
    )
    print(url)
    return 0
