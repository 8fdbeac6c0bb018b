"""What `intro2llm import | export | merge` have in common: a model read in one form and written in Hugging
Face's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stages.cli.flags import parse
from stages.run.options.groups import ModelFlags, NewTokensFlags


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(NewTokensFlags, ModelFlags):
    """Flags of the subcommands that read a model and write it in Hugging Face's layout."""

    output_dir: str
    """Folder to write; it must not exist yet."""
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep"
    """Data type of the weights; keep writes them as they are (those of a GGUF file in float32)."""


def main(kind: type[ConvertOptions], name: str, arguments: Sequence[str], *, adapters: bool = False) -> int:
    """Parses the flags, reads and writes.

    Args:
        kind: its options.
        name: of the subcommand.
        arguments: what follows it.
        adapters: only a folder with adapters makes sense.

    Returns:
        The exit code.

    Raises:
        ValueError: if there are no adapters where there must be.
        FileExistsError: if there is something in the place of the new folder.
    """
    options = parse(kind, name, arguments)
    folder = Path(options.output_dir)
    if folder.exists():
        raise FileExistsError(
            f"--output_dir {folder} exists already; choose another, so that nothing is lost"
        )
    from pure import tree
    from stages.models import adapter_folder, hardware, language_model, new_tokens

    if adapters and adapter_folder.find_adapters(options.model_path) is None:
        raise ValueError(
            f"--model_path {options.model_path} holds no adapters (adapter_config.json); a whole model has nothing to "
            "merge: use intro2llm export"
        )
    new_tokens.check_flags(options.add_tokens, options.vocabulary_multiple)
    dtype = dict(hardware.DTYPES).get(options.dtype)
    found = language_model.load(options.model_path, dtype=dtype)
    if options.add_tokens:
        found = new_tokens.add_tokens(
            found, options.add_tokens, multiple=options.vocabulary_multiple, say=print
        )
    path = language_model.save(folder, found)
    width = str(tree.leaves(found.params)[0].dtype).removeprefix("torch.")
    print(
        f"{path}: {tree.count(found.params):,} parameters in {width}, "
        f"{sum(x.numel() * x.element_size() for x in tree.leaves(found.params)) / 1e6:,.1f} MB"
    )
    return 0
