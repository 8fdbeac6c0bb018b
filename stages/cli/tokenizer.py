"""`intro2llm tokenizer`: trains a byte-level BPE on any text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from stages.run.options.groups import DatasetFlags, TextFlags
from stages.run.options.ranges import AtLeast


@dataclass(frozen=True, kw_only=True)
class TokenizerOptions(TextFlags, DatasetFlags):
    """Train a byte-level BPE tokenizer."""

    data_path: str = "embedded"
    """Text: a file, a folder, JSONL, Parquet, or a data set's name; "embedded" is Python's own source and
    documentation."""
    output_dir: str = "runs/tokenizer"
    """Folder for tokenizer.json, which Hugging Face's tokenizers loads."""
    vocab_size: Annotated[int, AtLeast(1)] = 4096
    """Number of token ids, including special tokens and the 256 bytes."""
    pattern: Literal["qwen2", "llama3", "gpt2"] = "qwen2"
    """Pre-tokenization pattern that splits text into words before pairs are merged; qwen2 splits off each
    digit."""
    min_frequency: Annotated[int, AtLeast(1)] = 2
    """Minimum number of occurrences of a pair to be merged."""


def run(options: TokenizerOptions) -> int:
    """Trains, saves, and shows how text is cut.

    Raises:
        ValueError: if there is no text, or no folder to write to.
    """
    from data_pipes import tokenizer as tokenizers
    from data_pipes.embedded import python_library
    from data_pipes.source.path import documents
    from stages.run.data.documents import refuse

    _refuse_file(Path(options.output_dir))
    if options.data_path == "embedded":
        found = python_library.documents("all")
    else:
        found = documents(
            options.data_path,
            field=options.field,
            encoding=options.encoding,
            subset=options.subset,
            split=options.split,
            on_bad=refuse,
        )
    tokenizer = tokenizers.train(
        (document.text for document in found),
        options.vocab_size,
        pattern=options.pattern,
        min_frequency=options.min_frequency,
    )
    path = tokenizers.save(tokenizer, options.output_dir)
    sample = "def fibonacci(n): return n if n < 2 else fibonacci(n - 1)"
    ids = tokenizer.encode(sample)
    print(f"{path}: {tokenizers.vocabulary_size(tokenizer):,} ids")
    print(
        f"{len(sample.encode()) / len(ids):.2f} bytes a token: "
        + "|".join(tokenizer.decode([i]) for i in ids)
    )
    return 0


def _refuse_file(target: Path) -> None:
    """What is written to must be a folder, or a file in one that ends in .json."""
    folder = target.parent if target.suffix == ".json" else target
    found = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if found is not None and not found.is_dir():
        raise ValueError(
            f"--output_dir {target}: {found} is a file; name a folder, which is made if it is missing"
        )
