"""A dry run: all of a run up to its first step, told in a few lines; nothing is written to its folder."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.run.options.base import BatchFlags
from stages.run.options.pretrain import CorpusFlags, PretrainOptions, StartFlags
from stages.run.options.ranges import Flags
from stages.run.options.tuning import TuningOptions, stage_name

if TYPE_CHECKING:
    from stages.run.experiment import Experiment, Say
    from stages.run.processes import Processes

CHARACTERS = 1 << 25
"""Text of pretraining up to this length is prepared, in a temporary folder, to count its steps."""


def run(options: PretrainOptions | TuningOptions, processes: Processes | None = None) -> int:
    """Describes a run without taking a step; every training subcommand runs this with --dry_run.

    Args:
        options: the flags.
        processes: those that would train together; None is one alone.

    Returns:
        0.

    Raises:
        ValueError, FileNotFoundError: as the run itself would before its first step.
    """
    describe_run(options, print, processes)
    return 0


def describe_run(
    options: PretrainOptions | TuningOptions, say: Say, processes: Processes | None = None
) -> None:
    """Says what a run would do: its flags, model, data, steps, and whether it starts or resumes.

    Args:
        options: the flags of any stage.
        say: prints a line to the user.
        processes: those that would train together; None is one alone. Each reads the whole model.

    Steps:
        1. Refuse what the run would refuse, before any reading.
        2. Build the run, with a temporary folder in place of its own. The text of pretraining is built only
           if it is short or prepared already; of longer text the first document is read.
        3. Describe it.

    Raises:
        ValueError: for flags, a model or data that cannot work, or checkpoints of another run in the folder.
        FileNotFoundError: for a file that is not there.
    """
    from stages.run import build, config_file
    from stages.run.processes import ALONE

    folder, stage = Path(options.output_dir), stage_name(type(options))
    # 1. Refuse.
    build.check(options, processes or ALONE)
    if options.backend == "jax":
        import pure.interop.jax  # noqa: F401

        options = dataclasses.replace(options, device="cpu")
    config_file.refuse_other_stage(folder, stage)
    notes = config_file.refuse_other_flags(folder, options)
    # 2. Build.
    say(f"dry run of {stage or config_file.PRETRAINING}: nothing is written to {folder}")
    say(f"flags: {_changed_flags(options)}")
    with tempfile.TemporaryDirectory(prefix="intro2llm-") as scratch:
        if isinstance(options, PretrainOptions) and not (folder / "data" / "corpus.json").exists():
            if not _is_short(options, say):
                _describe_long_text(options, options, say)
                return
            options = dataclasses.replace(options, output_dir=scratch)
        if isinstance(options, TuningOptions):
            options = dataclasses.replace(options, output_dir=scratch)
        experiment = build.build(options, _without_paths(say, scratch))
        # 3. Describe.
        for line in (*notes, *_describe_start(experiment, folder, options.batch_size, options.resume)):
            say(line)


def _changed_flags(flags: Flags) -> str:
    """The flags that differ from their defaults, as on the command line."""
    changed = []
    for field in dataclasses.fields(flags):
        value = getattr(flags, field.name)
        if value == field.default:
            continue
        if isinstance(value, bool):
            changed.append(f"--{field.name}" if value else f"--no_{field.name}")
        else:
            words = map(str, value) if isinstance(value, tuple) else (str(value),)
            changed.append(" ".join((f"--{field.name}", *words)))
    return " ".join(changed) or "all have their defaults"


def _without_paths(say: Say, scratch: str) -> Callable[[str], None]:
    """Says lines without the paths of a folder that is deleted afterwards."""

    def cut(line: str) -> None:
        say(line.partition(f", see {scratch}")[0])

    return cut


def _is_short(flags: CorpusFlags, say: Say) -> bool:
    """Reads text until it is long; the first document is shown."""
    from stages.run.data import documents

    characters = 0
    for number, document in enumerate(documents.read_documents(flags)):
        if not number:
            say(f"first document: {document.name}: {document.text[:60]!r}")
        characters += len(document.text)
        if characters > CHARACTERS:
            return False
    return True


def _describe_long_text(flags: StartFlags, batches: BatchFlags, say: Say) -> None:
    """Says what is known before long text is tokenized."""
    from pure import tree
    from pure.nn.transformer import transformer
    from stages.run import model_config

    config = model_config.read_config(flags.config, flags.model_path)
    say(f"model: {tree.count(transformer(config).spec):,} parameters at most, {config.vocab_size:,} tokens")
    if batches.max_steps:
        say(f"would train {_count_steps(batches.max_steps, batches.batch_size)}")
        return
    say(
        f"would train {batches.num_epochs} x the rows of the text, {batches.batch_size} a step; their number "
        f"is known once all of it (over {CHARACTERS:,} characters) is tokenized. --max_steps sets the steps"
    )


def _count_steps(steps: int, rows: int) -> str:
    """The number of steps, and the rows of each."""
    from pure.plural import count_noun

    return f"{count_noun(steps, 'step')} of {count_noun(rows, 'row')}"


def _describe_start(experiment: Experiment, folder: Path, rows: int, resume: bool) -> Iterator[str]:
    """Describes model, batches, steps and start of a run of batches of `rows` rows."""
    from pure import tree
    from pure.plural import count_noun
    from stages.checkpoint import directories, loading
    from stages.run.experiment import fingerprint_of

    model, params = experiment.base.model, experiment.params
    trained = tree.count(model.spec if params is None else params)
    yield f"model: {count_noun(trained, 'trained parameter')}, on {experiment.key.device}"
    yield f"a batch: {_describe_batch(experiment.pipe[0])}"
    steps = len(experiment.pipe)
    saved = directories.list_complete(folder) if resume else []
    record = directories.read_manifest(saved[0]) if saved else None
    if record is None:
        yield f"would train {_count_steps(steps, rows)}, and write {folder}"
        return
    loading.check_fingerprint(saved[0], record, fingerprint_of(experiment))
    done = directories.step_of(saved[0])
    yield f"would resume at step {done} of {_count_steps(steps, rows)}, in {folder}"


def _describe_batch(batch: dict[str, Any]) -> str:
    """Names and shapes of the tensors of a batch."""
    return ", ".join(f"{name} {list(x.shape)}" for name, x in batch.items())
