"""Metrics of a training step: their names and meanings, and how they are computed from sums over all ranks.

    python -m emage.training.step_metrics > docs/training_metrics.md

Letters: B images, N image tokens, V codes.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from emage.methods.base import Loss

Metrics = dict[str, float]

QUARTERS = ("25", "50", "75", "100")  # percent of an image's tokens that are masked, at most


class MetricInfo(NamedTuple):
    """A metric of steps.jsonl and MLflow: its name there, unit and meaning."""

    name: str
    unit: str
    meaning: str


# Written at every step to steps.jsonl.
STEP_METRICS = (
    MetricInfo("step", "steps", "optimizer steps done, this one included; skipped steps count"),
    MetricInfo("loss", "nats per token", "cross-entropy over the scored positions of the global batch"),
    *(
        MetricInfo(
            f"loss_masked_{high}",
            "nats per token",
            f"the loss over images with {int(high) - 25} to {high} % of their tokens masked; "
            "absent if the batch has none",
        )
        for high in QUARTERS
    ),
    MetricInfo("below_chance", "nats per token", "ln V - loss: how far the loss is below that of a uniform guess"),
    MetricInfo("accuracy_masked", "fraction", "masked positions whose most likely token is the true one"),
    MetricInfo(
        "accuracy_visible",
        "fraction",
        "the same over the positions that the network was shown; only iterative3 is trained on them; absent if none",
    ),
    MetricInfo("grad_norm", "", "L2 norm of the gradient before clipping"),
    MetricInfo("lr", "", "learning rate of the step"),
    MetricInfo("skipped", "0 or 1", "1 if the update was not applied: loss or gradient not finite, or a loss spike"),
    MetricInfo(
        "captions_cut",
        "fraction",
        "captions longer than the text encoder reads (`model.text_length`)",
    ),
    MetricInfo("samples", "", "checksum of the rows of the global batch and their positions in the training order"),
    MetricInfo("time", "seconds since 1970", "clock of rank 0 at the start of the step"),
    MetricInfo("data_wait_s", "seconds", "time that rank 0 waited for the rows of the step"),
)
# Written at every `run.log_every`-th step and the last in addition, to steps.jsonl. MLflow gets both groups then.
LOGGED_METRICS = (
    MetricInfo("samples_per_s", "images per second", "training rate over all workers since the last logged step"),
    MetricInfo("tokens_per_s", "tokens per second", "samples_per_s times the tokens of an image"),
    MetricInfo(
        "mfu",
        "fraction",
        "model FLOP utilization: FLOP/s of training divided by the FLOP/s of one large matrix product, as measured on "
        "rank 0's device at the start, times the number of workers. `dry_run=true` assumes 0.5 of a product that "
        "reaches 80 % of the data sheet's peak: multiply its days by 0.5 / mfu",
    ),
    MetricInfo("data_wait", "fraction", "of the time since the last logged step, waited for rows"),
    MetricInfo("gpu_memory_gib", "GiB", "the most that PyTorch has allocated on rank 0's GPU; absent on CPUs"),
    MetricInfo(
        "context_gain",
        "difference of accuracies",
        "accuracy on the masked half of true images with the other half shown, minus that with nothing shown; near 0 "
        "means that the network ignores the image. For methods that read partly masked images",
    ),
    MetricInfo(
        "visible_gain",
        "difference of accuracies",
        "the same for the half that is shown; meaningful for iterative3 only",
    ),
    MetricInfo("accuracy_blind", "fraction", "accuracy over all positions with nothing shown"),
)
# Written to MLflow alone, when the event happens.
EVENT_METRICS = (MetricInfo("checkpoints_lost", "checkpoints", "checkpoints that could not be saved (disk full)"),)

# The sums that every rank computes and all ranks add up: the metrics of a step are computed from them.
SUMS = (
    *("loss", "count", "correct_masked", "masked", "correct_visible", "visible", "truncated", "not_truncated"),
    *(f"{what}_{quarter}" for what in ("loss", "count") for quarter in QUARTERS),
    "samples",  # batch_checksum
    "time",  # rank 0's clock: all ranks must decide alike if a decision depends on the time
)
CHECKSUM_MODULUS = 1 << 40  # small enough that the sum over 8,192 ranks is exact in float64


@torch.no_grad()
def micro_batch_sums(loss: Loss, y: Tensor, truncated: Tensor) -> Tensor:
    """Return the sums of one micro-batch in the order of SUMS, float64. The last two belong to the step and are 0.

    Args:
        loss: The method's loss of the micro-batch.
        y: (B,N) true tokens.
        truncated: (B,) bool, captions that did not fit.
    """
    correct, masked = loss.logits.argmax(-1) == y, loss.masked
    sums = [loss.total, loss.count, (correct & masked).sum(), masked.sum(), (correct & ~masked).sum(), (~masked).sum()]
    sums += [truncated.sum(), (~truncated).sum()]
    quarter = (masked.double().mean(1) * len(QUARTERS)).ceil().long().clamp(1, len(QUARTERS)) - 1  # (B,)
    for values in (loss.nats, loss.scored):
        by_quarter = torch.zeros(len(QUARTERS), dtype=torch.float64, device=y.device)
        sums += by_quarter.index_add_(0, quarter, values.sum(1).double()).unbind()
    return torch.stack([value.double() for value in sums] + [torch.zeros((), dtype=torch.float64, device=y.device)] * 2)


def metrics_from_sums(sums: dict[str, float], vocab_size: int) -> Metrics:
    """Return the metrics of a step from its SUMS over all ranks. STEP_METRICS describes them."""
    loss = sums["loss"] / sums["count"]
    values = {
        "loss": loss,
        "below_chance": math.log(vocab_size) - loss,
        "accuracy_masked": sums["correct_masked"] / max(1, sums["masked"]),
        "captions_cut": sums["truncated"] / (sums["truncated"] + sums["not_truncated"]),
        "samples": sums["samples"] % CHECKSUM_MODULUS,
        "time": sums["time"],
    }
    if sums["visible"]:
        values["accuracy_visible"] = sums["correct_visible"] / sums["visible"]
    for quarter in QUARTERS:
        if count := sums[f"count_{quarter}"]:
            values[f"loss_masked_{quarter}"] = sums[f"loss_{quarter}"] / count
    return values


def batch_checksum(uid: list[int], seeds: list[int]) -> int:
    """Return a number that depends on which rows (`uid`) are at which positions of the training order (`seeds`).

    A seed belongs to one position. Summed over the ranks, modulo CHECKSUM_MODULUS, the checksum is that of the global
    batch, however its rows were divided among the ranks.
    """
    rows, positions = np.array(uid, np.uint64), np.array(seeds, np.uint64)
    mixed = (rows * np.uint64(0x9E3779B97F4A7C15) ^ positions) * np.uint64(0xBF58476D1CE4E5B9)
    return int((mixed >> np.uint64(24)).sum() % CHECKSUM_MODULUS)


def markdown() -> str:
    """Return the page docs/training_metrics.md."""
    sections = {
        "Every step: `steps.jsonl`": STEP_METRICS,
        "Every `run.log_every` steps and the last, in addition: `steps.jsonl`": LOGGED_METRICS,
        "At an event: MLflow alone": EVENT_METRICS,
    }
    lines = [
        "# Training metrics",
        "<!-- made by: python -m emage.training.step_metrics > docs/training_metrics.md -->",
        "The keys of `steps.jsonl`, one JSON object per step; a number that is not finite is null there. The MLflow",
        "run gets the first two groups under the same names, at every `run.log_every`-th step and the last.",
    ]
    for title, metrics in sections.items():
        lines += ["", f"## {title}", "| name | unit | meaning |", "|---|---|---|"]
        lines += [f"| `{name}` | {unit} | {meaning} |" for name, unit, meaning in metrics]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
