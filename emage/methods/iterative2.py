"""Iterative non-autoregressive model #2 (Sec. 3.3), `iterative2`: as iterative1, trained on its own tokens.

Letters: B images, N image tokens.

Training:
    1. Mask k positions of Y, k ~ Uniform(0, n].
    2. Predict the masked tokens, without gradient, and insert them: Y_mix, partly true, partly predicted.
    3. Mask again, this time Y_mix.
    4. Predict the tokens of the masked positions from X and the visible ones of Y_mix.
    5. Cross-entropy with Y (not Y_mix) on the masked positions.

Inference is that of iterative1.
"""

import torch
from torch import Tensor

from emage.config import ObjectiveConfig
from emage.methods.base import Loss, cross_entropy, first_pass, masked_scored, mix_in_truth
from emage.methods.iterative1 import generate, max_random_numbers, num_steps
from emage.methods.masking import MASK, ImageRng, sample_mask

__all__ = [
    "CAUSAL",
    "PARTIAL_CONTEXT",
    "TWO_PASSES",
    "generate",
    "loss",
    "max_random_numbers",
    "num_scored",
    "num_steps",
]

CAUSAL = False
TWO_PASSES = True
PARTIAL_CONTEXT = True
num_scored = masked_scored


def loss(model, y: Tensor, context, objective: ObjectiveConfig, rng: ImageRng, progress: float = 1.0) -> Loss:
    masked = sample_mask(y.shape[1], objective, rng)  # 3, sampled first: see num_scored
    first = sample_mask(y.shape[1], objective, rng)  # 1
    y_pred = mix_in_truth(first_pass(model, y.masked_fill(first, MASK), context, objective, rng), y, objective, rng)
    y_mix = torch.where(first, y_pred, y)  # 2
    logits = model(y_mix.masked_fill(masked, MASK), context)  # 4
    return cross_entropy(logits, y, masked, scored=masked)  # 5
