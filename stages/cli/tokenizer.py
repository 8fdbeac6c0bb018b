"""`intro2llm tokenizer`: a byte-level BPE trained on text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from stages.cli.notice import say_waiting
from stages.run.options.groups import TextSourceFlags, WorkerFlags
from stages.run.options.ranges import AtLeast

SAMPLE = "def fibonacci(n): return n if n < 2 else fibonacci(n - 1)"
"""Text whose tokens are printed after training."""


@dataclass(frozen=True, kw_only=True)
class TokenizerOptions(TextSourceFlags, WorkerFlags):
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
    """Trains and saves a tokenizer, and prints the tokens of a sample text.

    Returns:
        The exit code.

    Raises:
        ValueError: if there is no text, or no folder to write to.
    """
    say_waiting(f"training a tokenizer on {options.data_path}")
    from data_pipes import tokenizer as tokenizers
    from stages.run.data import bad_rows, documents

    _check_output(Path(options.output_dir))
    texts = documents.read_text(options.data_path, options, bad_rows.refuse)
    tokenizer = tokenizers.train(
        (document.text for document in texts),
        options.vocab_size,
        pattern=options.pattern,
        min_frequency=options.min_frequency,
        workers=options.workers,
    )
    path = tokenizers.save(tokenizer, options.output_dir)
    ids = tokenizer.encode(SAMPLE)
    tokens = "|".join(tokenizer.decode([i]) for i in ids)
    print(f"{path}: {tokenizers.vocabulary_size(tokenizer):,} token ids")
    print(f"{len(SAMPLE.encode()) / len(ids):.2f} bytes per token: {tokens}")
    return 0


def _check_output(target: Path) -> None:
    """Checks that the target can be written: a folder, or a .json file in one."""
    folder = target.parent if target.suffix == ".json" else target
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if existing is not None and not existing.is_dir():
        raise ValueError(
            f"--output_dir {target}: {existing} is a file; name a folder, which is created if it is missing"
        )
