"""The autoregressive baseline (Sec. 4.3): token i from X and the tokens before it, P(Y|X) = prod_i p(y_i|X, y_<i).

Letters: B images, N image tokens.

Training:
    1. Shift Y by one position; [MASK] stands for "begin" at the first.
    2. Predict the tokens of all positions from X and the earlier positions of the shifted Y (causal attention).
    3. Cross-entropy on all positions.

Inference (N decoding steps):
    1. The last token is [MASK], which stands for "begin"; the cache of keys and values is empty.
    2. For i = 1..N:
    3.   sample token i from X, the last token and the cache;
    4.   a given token (inpainting) stays: it replaces the sampled one;
    5.   token i becomes the last token.

All steps do the same work on the same memory, which is overwritten, so that one CUDA graph serves them all.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from emage.config import ObjectiveConfig, SamplingConfig
from emage.methods.base import Loss, Step, all_scored, cross_entropy
from emage.methods.masking import MASK, ImageRng, Rng
from emage.methods.sampling import sample_tokens, token_settings

CAUSAL = True
TWO_PASSES = False
PARTIAL_CONTEXT = False
num_scored = all_scored


def loss(model, y: Tensor, context, objective: ObjectiveConfig, rng: ImageRng, progress: float = 1.0) -> Loss:
    everywhere = torch.ones_like(y, dtype=torch.bool)
    logits = model(_shifted(y), context)  # 1, 2
    return cross_entropy(logits, y, masked=everywhere, scored=everywhere)  # 3


def num_steps(settings: SamplingConfig, n: int) -> int:
    return n


def max_random_numbers(settings: SamplingConfig, n: int) -> int:
    return n


@torch.no_grad()
def generate(model, context, y_obs: Tensor, settings: SamplingConfig, rng: Rng) -> Iterator[Step]:
    cache = model.new_cache(*y_obs.shape)
    y_obs = y_obs.clone()
    last = torch.full_like(y_obs[:, :1], MASK)  # 1
    u = rng.uniform(y_obs.shape[1])
    position = torch.zeros(1, dtype=torch.int64, device=y_obs.device)
    for _ in range(y_obs.shape[1]):  # 2
        logits = model(last, context, cache)  # (B,1,V)
        sampled = sample_tokens(logits, u.index_select(1, position), *token_settings(settings))  # 3
        given = y_obs.index_select(1, position)
        last.copy_(torch.where(given == MASK, sampled.tokens, given))  # 4, 5
        y_obs.index_copy_(1, position, last)
        position += 1
        yield Step(y_obs.clone(), y_obs.clamp(min=0))


def _shifted(y: Tensor) -> Tensor:
    """Return tokens (B,N) moved by one position, with [MASK] as the first: what position i may see."""
    return torch.cat([torch.full_like(y[:, :1], MASK), y[:, :-1]], dim=1)
