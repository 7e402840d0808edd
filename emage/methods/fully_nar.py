"""Fully non-autoregressive model (Sec. 3.1): all tokens in one pass from [MASK] alone, P(Y|X) = prod_i p(y_i|X).

Letters: B images, N image tokens.

Training:
    1. Mask all positions of Y.
    2. Predict the tokens of all positions from X.
    3. Cross-entropy on all positions.

Inference (one decoding step, whatever `settings.steps`):
    1. Y_obs is [MASK] everywhere (in inpainting: except for the given tokens).
    2. Sample the tokens of all positions from X and Y_obs.
    3. The given tokens stay.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from emage.config import ObjectiveConfig, SamplingConfig
from emage.methods.base import Loss, Step, cross_entropy
from emage.methods.masking import MASK, ImageRng, Rng
from emage.methods.sampling import sample_tokens, token_settings

CAUSAL = False
TWO_PASSES = False
PARTIAL_CONTEXT = False
SCORES_ALL = True
LIMITS = ("The paper found that this method hardly converges (Sec. 4.2): expect blur.",)  # for the model card


def loss(model, y: Tensor, context, objective: ObjectiveConfig, rng: ImageRng) -> Loss:
    everywhere = torch.ones_like(y, dtype=torch.bool)
    logits = model(torch.full_like(y, MASK), context)  # 1, 2
    return cross_entropy(logits, y, masked=everywhere, scored=everywhere)  # 3


def num_steps(settings: SamplingConfig, n: int) -> int:
    return 1


def max_random_numbers(settings: SamplingConfig, n: int) -> int:
    return n


@torch.no_grad()
def generate(model, context, y_obs: Tensor, settings: SamplingConfig, rng: Rng) -> Iterator[Step]:
    sampled = sample_tokens(model(y_obs, context), rng.uniform(y_obs.shape[1]), *token_settings(settings))  # 1, 2
    y_obs = torch.where(y_obs == MASK, sampled.tokens, y_obs)  # 3
    yield Step(y_obs, y_obs)
