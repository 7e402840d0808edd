"""Iterative non-autoregressive model #1 (Sec. 3.2), `iterative1`: predict the masked tokens from the visible ones.

Letters: B images, N image tokens, T decoding steps.

Training:
    1. Mask k positions of Y, k ~ Uniform(0, n].
    2. Predict the tokens of the masked positions from X and the visible ones.
    3. Cross-entropy on the masked positions.

Inference (Algorithm 1):
    1. Y_obs is [MASK] everywhere, P_obs zero.
    2. For t = 1..T:
    3.   predict the [MASK] tokens from X and Y_obs, with probabilities P_obs;
    4.   keep the top floor(tau(t/T) n) tokens by P_obs;
    5.   set the probability of the kept ones to one: they never change again. (Ours: +inf. Position noise can lift
         another token above one, and a kept token would be lost.)
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from emage.config import ObjectiveConfig, SamplingConfig
from emage.methods.base import Loss, Step, cross_entropy, logits_at, masked_scored
from emage.methods.masking import MASK, ImageRng, Rng, kept_table, max_masked, sample_mask
from emage.methods.sampling import sample_tokens, token_settings
from emage.methods.unmasking_order import (
    fixed_scores,
    least_confident,
    masked_positions,
    noise_table,
    position_scores,
    unmask_top_k,
)

CAUSAL = False
TWO_PASSES = False
PARTIAL_CONTEXT = True
num_scored = masked_scored


def loss(model, y: Tensor, context, objective: ObjectiveConfig, rng: ImageRng, progress: float = 1.0) -> Loss:
    masked = sample_mask(y.shape[1], objective, rng)  # 1
    logits = model(y.masked_fill(masked, MASK), context)  # 2
    return cross_entropy(logits, y, masked, scored=masked)  # 3


def num_steps(settings: SamplingConfig, n: int) -> int:
    return settings.steps


def max_random_numbers(settings: SamplingConfig, n: int) -> int:
    return (2 * settings.steps + 1) * n  # tokens, position noise, a random order


@torch.no_grad()
def generate(model, context, y_obs: Tensor, settings: SamplingConfig, rng: Rng) -> Iterator[Step]:
    given = y_obs != MASK  # 1; inpainting starts with given tokens
    n, steps, schedule = y_obs.shape[1], settings.steps, settings.schedule
    table = kept_table(n, steps, schedule, y_obs.device)
    kept = table[:, (~given).sum(1)]  # (T,B)
    p_obs = torch.zeros(y_obs.shape, device=y_obs.device)  # logarithms of P_obs
    most_masked = max_masked(n, steps, schedule)
    fixed = fixed_scores(settings.order, n, rng)
    noise = noise_table(settings.gumbel, steps, y_obs.device)
    for t in range(1, steps + 1):  # 2
        unmasked = y_obs != MASK
        positions = masked_positions(y_obs, most_masked[t - 1])  # unmasked positions need no logits
        logits = logits_at(model, y_obs, context, positions)
        sampled = sample_tokens(logits, rng.uniform(n).gather(1, positions), *token_settings(settings))  # 3
        tokens = torch.where(unmasked, y_obs, y_obs.scatter(1, positions, sampled.tokens))
        p_obs = torch.where(unmasked, p_obs, p_obs.scatter(1, positions, sampled.log_p))
        scores = position_scores(settings.order, p_obs, fixed, noise[t - 1], rng)
        num_unmasked = given.sum(1) + kept[t - 1]
        mask_again = least_confident(unmasked & ~given, p_obs, settings.remask, max_count=n - num_unmasked)
        y_obs = unmask_top_k(tokens, scores, unmasked, mask_again, num_unmasked)  # 4, 5
        yield Step(y_obs, tokens)
