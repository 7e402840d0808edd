"""What a training step says of itself: sums that add up over micro-batches and ranks, and figures made of them."""

import math

import numpy as np
import torch
from torch import Tensor

from emage.methods.base import Loss

Metrics = dict[str, float]

QUARTERS = ("25", "50", "75", "100")  # per cent of an image's tokens that are masked, at most
SUMS = (
    *("loss", "count", "right_masked", "masked", "right_visible", "visible", "cut", "whole"),
    *(f"{what}_{quarter}" for what in ("loss", "count") for quarter in QUARTERS),
    "samples",  # of `fingerprint`
    "time",  # rank 0's clock, so that what depends on the time is decided alike by all ranks
)
CHECKSUM_MODULUS = 1 << 40  # so many values that the sum of 8,192 ranks' fingerprints is exact in float64


@torch.no_grad()
def micro_batch_sums(loss: Loss, y: Tensor, cut: Tensor) -> Tensor:
    """The sums of one micro-batch in the order of SUMS, float64; the last two, which are a step's, are 0.

    `y` (B,N) are the true tokens, `cut` (B,) bool says which captions did not fit.
    """
    right, masked = loss.logits.argmax(-1) == y, loss.masked
    sums = [loss.total, loss.count, (right & masked).sum(), masked.sum(), (right & ~masked).sum(), (~masked).sum()]
    sums += [cut.sum(), (~cut).sum()]
    quarter = (masked.double().mean(1) * len(QUARTERS)).ceil().long().clamp(1, len(QUARTERS)) - 1  # (B,)
    for values in (loss.nats, loss.scored):
        by_quarter = torch.zeros(len(QUARTERS), dtype=torch.float64, device=y.device)
        sums += by_quarter.index_add_(0, quarter, values.sum(1).double()).unbind()
    return torch.stack([value.double() for value in sums] + [torch.zeros((), dtype=torch.float64, device=y.device)] * 2)


def metrics_from_sums(found: dict[str, float], vocab_size: int) -> Metrics:
    """Figures of a step from its sums over all ranks.

    loss is in nats a token, and loss_masked_25, _50, _75, _100 are the same for images of which up to so many per
    cent were masked (where there were any); below_chance is how far the loss lies under ln V; accuracies are those on
    masked and on visible tokens; captions_cut is a share of the captions;
    samples is a fingerprint of the rows that the step saw; time is in seconds since 1970.
    """
    loss = found["loss"] / found["count"]
    values = {
        "loss": loss,
        "below_chance": math.log(vocab_size) - loss,
        "accuracy_masked": found["right_masked"] / max(1, found["masked"]),
        "captions_cut": found["cut"] / (found["cut"] + found["whole"]),
        "samples": found["samples"] % CHECKSUM_MODULUS,
        "time": found["time"],
    }
    if found["visible"]:
        values["accuracy_visible"] = found["right_visible"] / found["visible"]
    for quarter in QUARTERS:
        if count := found[f"count_{quarter}"]:
            values[f"loss_masked_{quarter}"] = found[f"loss_{quarter}"] / count
    return values


def batch_checksum(uid: list[int], seeds: list[int]) -> int:
    """A number for which rows (`uid`) are at which places of the training order (`seeds`: a seed is its place's alone).

    Summed over the ranks, modulo CHECKSUM_MODULUS, it is one of the global step, however the rows were shared out.
    """
    rows, places = np.array(uid, np.uint64), np.array(seeds, np.uint64)
    mixed = (rows * np.uint64(0x9E3779B97F4A7C15) ^ places) * np.uint64(0xBF58476D1CE4E5B9)
    return int((mixed >> np.uint64(24)).sum() % CHECKSUM_MODULUS)
