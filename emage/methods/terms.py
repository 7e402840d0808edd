"""What the methods share: the terms of a loss, the state after a generation step, the first pass of #2 and #3."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from emage.config import ObjectiveConfig, SamplingConfig
from emage.masking import PictureRng
from emage.sampling import draw


class Loss(NamedTuple):
    """Cross-entropy as a sum and a count, so that ranks with unequal counts add up to the right mean."""

    total: Tensor  # () sum over the scored positions, nats
    count: Tensor  # () how many those are
    logits: Tensor  # (B,N,V) of the scored pass
    masked: Tensor  # (B,N) bool, where that pass saw [MASK]


class Step(NamedTuple):
    """After an iteration of generation."""

    y_obs: Tensor  # (B,N) known tokens, MASK elsewhere
    guess: Tensor  # (B,N) a token everywhere: what the picture would be if it ended here


def cross_entropy(logits: Tensor, y: Tensor, masked: Tensor, scored: Tensor) -> Loss:
    """Loss of `logits` (B,N,V) against `y` (B,N) over the `scored` (B,N) positions, in float32."""
    total = F.cross_entropy(logits[scored].float(), y[scored], reduction="sum")
    return Loss(total, scored.sum(), logits, masked)


@torch.no_grad()
def first_pass(model, y_mask: Tensor, context, objective: ObjectiveConfig, rng: PictureRng) -> Tensor:
    """The model's own tokens for every position, (B,N): what #2 and #3 train on. No gradient flows into it."""
    temperature = 1.0 if objective.first_pass == "sample" else 0.0
    tokens, _ = draw(model(y_mask, context), SamplingConfig(temperature=temperature), rng)
    # Under autocast this pass has left casts of the weights without a graph behind; the second pass would reuse them,
    # and half of the parameters would get no gradient.
    torch.clear_autocast_cache()
    return tokens


def some_truth(y_pred: Tensor, y: Tensor, objective: ObjectiveConfig, rng: PictureRng) -> Tensor:
    """(B,N) `y_pred` with a share of the positions taken from Y: a context that is worth reading (beyond the paper)."""
    if not objective.ground_truth_share:
        return y_pred
    return torch.where(rng.uniform(y.shape[1]) < objective.ground_truth_share, y, y_pred)
