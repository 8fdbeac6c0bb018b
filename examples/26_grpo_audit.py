"""An audit of GRPO: one batch through every variant and every KL estimator, and one run branched in two.

The variants differ in how they weigh tokens and clip ratios. Two training runs would differ in everything
that follows; the cosines between the gradients of one batch show the difference alone. The estimators of the
divergence from the reference stand beside the exact one, a sum over the vocabulary at every position. Then a
run is continued from one state with two variants, and the distance of their params is drawn.

    python examples/26_grpo_audit.py        (saves grpo_audit.png, if matplotlib is installed)
"""

import sys
from functools import partial

import torch

from pure import optim, random
from pure.config import ModelConfig
from pure.generation.sampling import Sampling
from pure.nn.transformer import transformer
from stages.audit import Audit, audit_grpo
from stages.branch import Branch, branch
from stages.grpo import grpo
from stages.online import generate_and_score
from stages.rollout import Rollouts

NEW, SAMPLES, STOP = 12, 8, 0


def share_of_even(rollouts: Rollouts) -> torch.Tensor:
    """Reward: the share of even tokens in a completion, which may stop early."""
    even = (rollouts.tokens[:, -NEW:] % 2 == 0) & rollouts.mask
    return (even.sum(1) / rollouts.mask.sum(1).clamp(min=1))[:, None]


def main(steps: int = 12, picture: str = "grpo_audit.png") -> tuple[Audit, Branch]:
    """Trains, audits a batch that is two updates old, branches the run; returns both results."""
    config = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformer(ModelConfig(vocab_size=16, num_hidden_layers=2, max_position_embeddings=32, **config))
    sampling = Sampling(max_new_tokens=NEW, stop_tokens=(STOP,))
    build = partial(
        grpo, model, optim.adamw(2e-3), score=share_of_even, samples=SAMPLES, sampling=sampling, scale="group"
    )
    stage = build(variant="dapo")
    start = stage.init(random.key(0))
    prompts = {
        "prompts": torch.arange(1, 9).view(4, 2),
        "lengths": torch.full((4,), 2),
        "row": torch.arange(4),
    }
    states = [start]
    for _ in range(steps):
        states.append(stage.step(states[-1], prompts))

    rollouts, rewards = generate_and_score(states[-3], prompts, parts=stage.parts)
    audit = audit_grpo(
        model,
        states[-1].params,
        rollouts,
        rewards,
        sampling=sampling,
        samples=SAMPLES,
        reference=start.params,
    )
    for name, value, norm, row in zip(*audit[:3], audit.cosines, strict=True):
        print(f"{name:8} value {value:8.4f}  norm {norm:8.4f}  cosines {' '.join(f'{c:5.2f}' for c in row)}")

    branched = branch(stage, build(variant="dr_grpo"), states[-1], [prompts] * steps)
    share = branched.distances / branched.lengths
    print(f"dapo and dr_grpo from step {steps}: first different step {branched.first}, params apart by")
    print(f"{share[0]:.0%} of the way since the branch after one step, {share[-1]:.0%} after {steps}")
    print(plot_audit(audit, branched, picture))
    return audit, branched


def plot_audit(audit: Audit, branched: Branch, path: str) -> str:
    """Plots cosines, divergences and the branched run; returns the path, or what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.3, 0.9, 1))
    image = left.imshow(audit.cosines.numpy(), vmin=-1, vmax=1, cmap="RdBu")
    ticks = range(len(audit.names))
    left.set_xticks(ticks, audit.names, rotation=90)
    left.set_yticks(ticks, audit.names)
    left.set(title="cosines between gradients")
    figure.colorbar(image, ax=left)
    kls = [i for i, name in enumerate(audit.names) if name.startswith("kl")]
    middle.bar([audit.names[i][3:] for i in kls], [float(audit.values[i]) for i in kls])
    middle.axhline(float(audit.values[kls[-1]]), color="black", linewidth=1)
    middle.set(title="KL from the reference", ylabel="nats a token")
    right.plot(branched.distances.tolist(), label="distance of the two runs")
    right.plot(branched.lengths.tolist(), label="way since the branch")
    right.set(title="params: dapo continued, and as dr_grpo", xlabel="step after the branch")
    right.legend()
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
