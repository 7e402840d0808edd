"""Fully non-autoregressive (Sec. 3.1): every token in one pass from [MASK] alone, P(Y|X) = prod_i p(y_i|X)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from emage.config import ObjectiveConfig, SamplingConfig
from emage.masking import MASK, PictureRng
from emage.methods.terms import Loss, Step, cross_entropy
from emage.sampling import draw

CAUSAL = False
TWO_PASSES = False
PARTIAL_CONTEXT = False
SCORES_ALL = True


def loss(model, y: Tensor, context, objective: ObjectiveConfig, rng: PictureRng) -> Loss:
    everywhere = torch.ones_like(y, dtype=torch.bool)
    logits = model(torch.full_like(y, MASK), context)
    return cross_entropy(logits, y, masked=everywhere, scored=everywhere)


def num_passes(settings: SamplingConfig, n: int) -> int:
    return 1


@torch.no_grad()
def generate(model, context, y_obs: Tensor, settings: SamplingConfig, rng: PictureRng) -> Iterator[Step]:
    """One iteration, whatever `settings.steps`."""
    tokens, _ = draw(model(y_obs, context), settings, rng)
    y_obs = torch.where(y_obs == MASK, tokens, y_obs)
    yield Step(y_obs, y_obs)
