"""Fully non-autoregressive (Sec. 3.1): every token in one pass from [MASK] alone, P(Y|X) = prod_i p(y_i|X)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from emage.config import ObjectiveConfig, SamplingConfig
from emage.methods.base import Loss, Step, cross_entropy
from emage.methods.masking import MASK, ImageRng
from emage.methods.sampling import sample_tokens, token_settings

CAUSAL = False
TWO_PASSES = False
PARTIAL_CONTEXT = False
SCORES_ALL = True


def loss(model, y: Tensor, context, objective: ObjectiveConfig, rng: ImageRng) -> Loss:
    everywhere = torch.ones_like(y, dtype=torch.bool)
    logits = model(torch.full_like(y, MASK), context)
    return cross_entropy(logits, y, masked=everywhere, scored=everywhere)


def num_steps(settings: SamplingConfig, n: int) -> int:
    return 1


def max_random_numbers(settings: SamplingConfig, n: int) -> int:
    return n


@torch.no_grad()
def generate(model, context, y_obs: Tensor, settings: SamplingConfig, rng: ImageRng) -> Iterator[Step]:
    """One iteration, whatever `settings.steps`."""
    sampled = sample_tokens(model(y_obs, context), rng.uniform(y_obs.shape[1]), *token_settings(settings))
    y_obs = torch.where(y_obs == MASK, sampled.tokens, y_obs)
    yield Step(y_obs, y_obs)
