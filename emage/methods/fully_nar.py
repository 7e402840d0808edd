"""Fully non-autoregressive model (Sec. 3.1): all tokens in one pass from [MASK] alone, P(Y|X) = prod_i p(y_i|X).

Letters: B images, N image tokens.

Training:
    1. Mask all positions of Y. (Curriculum, Sec. 4.2, off by default: at first few random ones, then more and more.)
    2. Predict the tokens of the masked positions from X and, in the curriculum, the visible tokens.
    3. Cross-entropy on the masked positions.

The paper tried the curriculum and found no improvement. It does not state the schedule: rising linearly is ours.

Inference (one decoding step, whatever `settings.steps`):
    1. Y_obs is [MASK] everywhere (in inpainting: except for the given tokens).
    2. Sample the tokens of all positions from X and Y_obs.
    3. The given tokens stay.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from emage.config import ObjectiveConfig, SamplingConfig
from emage.methods.base import Loss, Step, cross_entropy
from emage.methods.masking import MASK, ImageRng, Rng, random_mask
from emage.methods.sampling import sample_tokens, token_settings

CAUSAL = False
TWO_PASSES = False
PARTIAL_CONTEXT = False
LIMITS = ("The paper found that this method hardly converges (Sec. 4.2): expect blur.",)  # for the model card


def num_scored(n: int, objective: ObjectiveConfig, rng: ImageRng, progress: float = 1.0) -> Tensor:
    """Return how many positions of each image are masked, (B,): all but in the curriculum, where it rises from 1 to n.

    After a fraction p of the steps, of which the curriculum takes c: ceil(p / c n).
    """
    count = n
    if progress < objective.mask_curriculum:
        count = max(1, math.ceil(progress / objective.mask_curriculum * n - 1e-9))  # 1e-9: where it is whole
    return torch.full((len(rng),), count, device=rng.device)


def loss(model, y: Tensor, context, objective: ObjectiveConfig, rng: ImageRng, progress: float = 1.0) -> Loss:
    n = y.shape[1]
    masked = random_mask(num_scored(n, objective, rng, progress), n, rng)  # 1
    logits = model(y.masked_fill(masked, MASK), context)  # 2
    return cross_entropy(logits, y, masked, scored=masked)  # 3


def num_steps(settings: SamplingConfig, n: int) -> int:
    return 1


def max_random_numbers(settings: SamplingConfig, n: int) -> int:
    return n


@torch.no_grad()
def generate(model, context, y_obs: Tensor, settings: SamplingConfig, rng: Rng) -> Iterator[Step]:
    sampled = sample_tokens(model(y_obs, context), rng.uniform(y_obs.shape[1]), *token_settings(settings))  # 1, 2
    y_obs = torch.where(y_obs == MASK, sampled.tokens, y_obs)  # 3
    yield Step(y_obs, y_obs)
