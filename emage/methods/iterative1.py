"""Iterative non-autoregressive model #1 (Sec. 3.2): predict the masked tokens from the visible ones.

Training:
    1. Mask k positions of Y, k ~ Uniform(0, n].
    2. Predict the tokens of the masked positions from X and the visible ones.
    3. Cross-entropy on the masked positions.

Inference (Algorithm 1):
    1. Y_obs is [mask] everywhere, P_obs zero.
    2. For t = 1..T:
    3.   predict the [mask] tokens from X and Y_obs, with probabilities P_obs;
    4.   keep the top floor(tau(t/T) n) tokens by P_obs;
    5.   set the probability of the kept ones to one: they never change again. (Ours: +inf. Position noise can lift a
         rival above one, and a kept token would be lost.)
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from emage.config import ObjectiveConfig, SamplingConfig
from emage.masking import MASK, PictureRng, draw_mask, fixed_scores, kept_table, position_scores, rank, unsure
from emage.methods.terms import Loss, Step, cross_entropy
from emage.sampling import draw

CAUSAL = False
TWO_PASSES = False
PARTIAL_CONTEXT = True
SCORES_ALL = False


def loss(model, y: Tensor, context, objective: ObjectiveConfig, rng: PictureRng) -> Loss:
    masked = draw_mask(y.shape[1], objective.mask_schedule, rng)  # 1
    logits = model(y.masked_fill(masked, MASK), context)  # 2
    return cross_entropy(logits, y, masked, scored=masked)  # 3


def num_passes(settings: SamplingConfig, n: int) -> int:
    return settings.steps


@torch.no_grad()
def generate(model, context, y_obs: Tensor, settings: SamplingConfig, rng: PictureRng) -> Iterator[Step]:
    given = y_obs != MASK  # 1; inpainting starts with known tokens
    kept = kept_table((~given).sum(1).tolist(), settings.steps, settings.schedule).to(y_obs.device)
    p_obs = torch.zeros(y_obs.shape, device=y_obs.device)  # as logarithms
    fixed = fixed_scores(settings.order, y_obs.shape[1], rng)
    for t in range(1, settings.steps + 1):  # 2
        known = y_obs != MASK
        tokens, log_p = draw(model(y_obs, context), settings, rng)  # 3
        tokens, p_obs = torch.where(known, y_obs, tokens), torch.where(known, p_obs, log_p)
        noise = settings.gumbel * (1 - t / settings.steps)
        scores = position_scores(settings.order, p_obs, fixed, noise, rng).masked_fill(known, torch.inf)  # 5
        num_known = given.sum(1) + kept[t - 1]
        again = unsure(known & ~given, p_obs, settings.remask, room=y_obs.shape[1] - num_known)
        top = rank(scores.masked_fill(again, -torch.inf)) < num_known[:, None]  # 4
        y_obs = tokens.masked_fill(~top, MASK)
        yield Step(y_obs, tokens)
