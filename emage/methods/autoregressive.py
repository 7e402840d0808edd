"""The autoregressive baseline (Sec. 4.3): token i from X and the tokens before it, N passes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from emage.config import ObjectiveConfig, SamplingConfig
from emage.methods.base import Loss, Step, cross_entropy
from emage.methods.masking import MASK, ImageRng
from emage.methods.sampling import sample_tokens, token_settings

CAUSAL = True
TWO_PASSES = False
PARTIAL_CONTEXT = False
SCORES_ALL = True


def loss(model, y: Tensor, context, objective: ObjectiveConfig, rng: ImageRng) -> Loss:
    everywhere = torch.ones_like(y, dtype=torch.bool)
    logits = model(_shifted(y), context)
    return cross_entropy(logits, y, masked=everywhere, scored=everywhere)


def num_steps(settings: SamplingConfig, n: int) -> int:
    return n


def max_random_numbers(settings: SamplingConfig, n: int) -> int:
    return n


@torch.no_grad()
def generate(model, context, y_obs: Tensor, settings: SamplingConfig, rng: ImageRng) -> Iterator[Step]:
    """One iteration a token, from the first to the last; known tokens stay. `model` takes and fills a `cache`.

    All iterations do the same work on the same memory, which is overwritten: a CUDA graph of one serves them all.
    """
    cache = model.new_cache(*y_obs.shape)
    y_obs = y_obs.clone()
    last = torch.full_like(y_obs[:, :1], MASK)  # stands for "begin" in front of the first token
    u = rng.uniform(y_obs.shape[1])
    place = torch.zeros(1, dtype=torch.int64, device=y_obs.device)
    for _ in range(y_obs.shape[1]):
        sampled = sample_tokens(
            model(last, context, cache), u.index_select(1, place), *token_settings(settings)
        )  # (B,1)
        there = y_obs.index_select(1, place)
        last.copy_(torch.where(there == MASK, sampled.tokens, there))
        y_obs.index_copy_(1, place, last)
        place += 1
        yield Step(y_obs.clone(), y_obs.clamp(min=0))


def _shifted(y: Tensor) -> Tensor:
    """(B,N) tokens moved one place on, [MASK] as the first: what position i may see."""
    return torch.cat([torch.full_like(y[:, :1], MASK), y[:, :-1]], dim=1)
