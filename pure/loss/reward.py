"""The loss of a reward model: the chosen completion of a pair gets the higher score.

The training is in `stages/reward.py`.

Shape letters: B pairs.

Bradley and Terry, "Rank Analysis of Incomplete Block Designs", 1952; Ouyang et al., "Training language models
to follow instructions with human feedback", 2022; Touvron et al., "Llama 2", 2023 (margins); Eisenstein et
al., "Helping or Herding?", 2023 (centring).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.loss.check import check_range, expect, may_be_nonzero, upcast


def bradley_terry(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | float = 0.0, center: float | Tensor = 0.0
) -> Tensor:
    """Computes the negative log-likelihood of each comparison.

    One completion is preferred to another with probability σ(difference of scores). Only differences are
    learned, so a small penalty centres the scores at 0.

        loss = -log σ(chosen - rejected - margin) + center (chosen + rejected)²

    Args:
        chosen, rejected: scores of the completions, [B] float, without unit.
        margin: target difference of the scores: [B] number, or one for all (a finite number or a [] tensor).
        center: >= 0, weight of the penalty; 0.01 is usual, 0 disables it.

    Returns:
        [B] nats; at least 0 without the penalty too; float32, or float64 as given.

    Steps:
        1. Check the arguments: `expect` with the dims and kinds under Args (for a margin without axes None,
            kind "number?"), `check_range` for a margin that is a number, and for center.
        2. Difference of the scores minus the margin, [B], in at least float32 (`upcast`); NaN where infinite.
        3. Negative log-likelihood [B]: minus `F.logsigmoid`, which does not overflow for large differences.
        4. Add the penalty [B], if `may_be_nonzero(center)`.

    Edge cases: a score that is not finite gives NaN; no pairs give no losses.

    Raises:
        ValueError: if the shapes are not [B], or center is negative.
        TypeError: for scores that are not floating.

    Example:
        Equal scores: log 2.

        >>> round(bradley_terry(torch.zeros(1), torch.zeros(1)).item(), 4)
        0.6931

    Source: Ouyang et al. 2022, equation 1; Touvron et al. 2023, equation 2; Eisenstein et al. 2023, section
    3.
    """
    # 1. Check.
    margins = margin if isinstance(margin, Tensor) and margin.ndim else None
    expect(
        "bradley_terry",
        chosen=(chosen, "B", "float"),
        rejected=(rejected, "B", "float"),
        margin=(margins, "B", "number?"),
    )
    if not isinstance(margin, Tensor):
        check_range("bradley_terry", "finite", margin=margin)
    check_range("bradley_terry", "at least 0", center=center)
    # 2. Difference [B].
    chosen, rejected = upcast(chosen), upcast(rejected)
    difference = chosen - rejected - margin
    difference = torch.where(difference.isinf(), torch.nan, difference)
    # 3. Negative log-likelihood [B].
    losses = -F.logsigmoid(difference)
    # 4. Penalty [B].
    if may_be_nonzero(center):
        losses = losses + center * (chosen + rejected).square()
    return losses
