"""What the methods share: the terms of a loss, the state after a generation step, the first pass of #2 and #3."""

from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from emage.config import ObjectiveConfig
from emage.methods.masking import ImageRng, sample_num_masked
from emage.methods.sampling import sample_tokens


class Loss(NamedTuple):
    """Cross-entropy as a sum and a count, so that ranks with unequal counts add up to the right mean."""

    total: Tensor  # () sum over the scored positions, nats
    count: Tensor  # () how many those are
    nats: Tensor  # (B,N) of each scored position, 0 elsewhere; no gradient
    scored: Tensor  # (B,N) bool
    logits: Tensor  # (B,N,V) of the scored pass
    masked: Tensor  # (B,N) bool, where that pass saw [MASK]


class Step(NamedTuple):
    """After an iteration of generation."""

    y_obs: Tensor  # (B,N) known tokens, MASK elsewhere
    guess: Tensor  # (B,N) a token everywhere: what the image would be if it ended here


def cross_entropy(logits: Tensor, y: Tensor, masked: Tensor, scored: Tensor) -> Loss:
    """Loss of `logits` (B,N,V) against `y` (B,N) over the `scored` (B,N) positions, in float32."""
    nats = F.cross_entropy(logits[scored].float(), y[scored], reduction="none")
    placed = torch.zeros(y.shape, device=y.device).masked_scatter_(scored, nats.detach())
    return Loss(nats.sum(), scored.sum(), placed, scored, logits, masked)


def num_scored(method: ModuleType, n: int, objective: ObjectiveConfig, rng: ImageRng) -> Tensor:
    """(B,) positions that the method's loss will be over, of images of `n` tokens.

    `rng` must be as `loss` will get it: the count is the first thing that is sampled from it.
    """
    if method.SCORES_ALL:
        return torch.full((len(rng),), n, device=rng.device)
    return sample_num_masked(n, objective.mask_schedule, rng)


def logits_at(model, y: Tensor, context, places: Tensor) -> Tensor:
    """The model's logits (B,M,V) of the `places` (B,M). The network computes no others; a mere function does."""
    if hasattr(model, "logits_at"):
        return model.logits_at(y, context, places)
    logits = model(y, context)
    return logits.gather(1, places[..., None].expand(*places.shape, logits.shape[2]))


@torch.no_grad()
def first_pass(model, y_mask: Tensor, context, objective: ObjectiveConfig, rng: ImageRng) -> Tensor:
    """The model's own tokens for every position, (B,N): what #2 and #3 train on. No gradient flows into it."""
    sampled = sample_tokens(model(y_mask, context), rng.uniform(y_mask.shape[1]))
    # Under autocast this pass has left casts of the weights without a graph behind; the second pass would reuse them,
    # and half of the parameters would get no gradient.
    torch.clear_autocast_cache()
    return sampled.tokens if objective.first_pass == "sample" else sampled.best


def mix_in_truth(y_pred: Tensor, y: Tensor, objective: ObjectiveConfig, rng: ImageRng) -> Tensor:
    """(B,N) `y_pred` with a share of the positions taken from Y: a context that is worth reading (beyond the paper)."""
    if not objective.ground_truth_share:
        return y_pred
    return torch.where(rng.uniform(y.shape[1]) < objective.ground_truth_share, y, y_pred)
