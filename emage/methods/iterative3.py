"""Iterative non-autoregressive model #3 (Sec. 3.4), `iterative3`: predict new tokens and revise the unmasked ones.

Letters: B images, N image tokens, T decoding steps.

Training (Algorithm 2; lines 1, 2, 10 and 11 are in the training loop):
    3. Sample a mask ratio r from Uniform (0, 1].
    4. Pick k = ceil(r |Y|) positions. (Algorithm 2 has floor, with which no image is masked everywhere; Sec. 3.4 says
       that k is uniform on (0, |Y|].)
    5. Y_mask is Y with [MASK] there.
    6. Y_pred: predict the tokens of all positions from X and Y_mask, without gradient.
    7. Sample another ratio and mask Y_pred at random: Y_obs, [MASK] tokens and (wrong) image tokens.
    8. Predict the tokens of all positions from X and Y_obs.
    9. Cross-entropy with Y on all positions.

Inference (Algorithm 3; it differs from Algorithm 1 only in line 3):
    1. Y_obs is [MASK] everywhere, P_obs zero.
    2. For t = 1..T:
    3.   predict all positions from X and Y_obs, the unmasked ones too, with probabilities P_obs;
    4.   keep the top floor(tau(t/T) n) tokens by P_obs;
    5.   set the probability of the kept ones to one (ours: +inf): they may be revised, never masked again.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from emage.config import ObjectiveConfig, SamplingConfig
from emage.methods.base import Loss, Step, all_scored, cross_entropy, first_pass, mix_in_truth
from emage.methods.iterative1 import max_random_numbers, num_steps
from emage.methods.masking import MASK, ImageRng, Rng, kept_table, sample_mask
from emage.methods.sampling import sample_tokens, token_settings
from emage.methods.unmasking_order import fixed_scores, least_confident, noise_table, position_scores, unmask_top_k

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
num_scored = all_scored


def loss(model, y: Tensor, context, objective: ObjectiveConfig, rng: ImageRng, progress: float = 1.0) -> Loss:
    y_mask = y.masked_fill(sample_mask(y.shape[1], objective, rng), MASK)  # 3, 4, 5
    y_pred = mix_in_truth(first_pass(model, y_mask, context, objective, rng), y, objective, rng)  # 6
    masked = sample_mask(y.shape[1], objective, rng)  # 7
    logits = model(y_pred.masked_fill(masked, MASK), context)  # 8
    return cross_entropy(logits, y, masked, scored=torch.ones_like(masked))  # 9


@torch.no_grad()
def generate(model, context, y_obs: Tensor, settings: SamplingConfig, rng: Rng) -> Iterator[Step]:
    given = y_obs != MASK  # 1; inpainting starts with given tokens, which are not revised
    start = y_obs
    n, steps, schedule = y_obs.shape[1], settings.steps, settings.schedule
    table = kept_table(n, steps, schedule, y_obs.device)
    kept = table[:, (~given).sum(1)]  # (T,B)
    fixed = fixed_scores(settings.order, n, rng)
    noise = noise_table(settings.gumbel, steps, y_obs.device)
    for t in range(1, steps + 1):  # 2
        unmasked = y_obs != MASK
        sampled = sample_tokens(model(y_obs, context), rng.uniform(n), *token_settings(settings))  # 3
        tokens, p_obs = sampled.tokens, sampled.log_p
        if settings.revise == "argmax":  # ours: sampling kept tokens again would add noise to them in the last step
            tokens = torch.where(unmasked, sampled.best, tokens)
            p_obs = torch.where(unmasked, sampled.best_log_p, p_obs)
        tokens = torch.where(given, start, tokens)
        scores = position_scores(settings.order, p_obs, fixed, noise[t - 1], rng)
        num_unmasked = given.sum(1) + kept[t - 1]
        mask_again = least_confident(unmasked & ~given, p_obs, settings.remask, max_count=n - num_unmasked)
        y_obs = unmask_top_k(tokens, scores, unmasked, mask_again, num_unmasked)  # 4, 5
        yield Step(y_obs, tokens)
