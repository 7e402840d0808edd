"""Logits to tokens: temperature, top-k, top-p. Position noise is elsewhere (masking.py): the two never mix.

Letters: B images, M positions of each, V codes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from emage.config import SamplingConfig, check
from emage.utils.errors import InputError
from emage.utils.torch_compile import compilable


class SampledTokens(NamedTuple):
    """What a pass says of its positions, M of them: a token drawn for each, and the best one."""

    tokens: Tensor  # (B,M) int64
    log_p: Tensor  # (B,M) float32, of those tokens; nats
    best: Tensor  # (B,M) int64
    best_log_p: Tensor  # (B,M) float32


@compilable
def sample_tokens(
    logits: Tensor, u: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> SampledTokens:
    """Logits (B,M,V) and a uniform number (B,M) for each position -> tokens. Temperature 0: the best ones.

    One number a position, through the inverse of the cumulative distribution. The log-probability is the model's own,
    before temperature and truncation: it ranks positions, and a knob must not reorder them.
    """
    x = logits.float()
    most, best = x.max(-1)
    log_z = x.logsumexp(-1)
    if temperature == 0:
        return SampledTokens(best, most - log_z, best, most - log_z)
    kept = truncate(x / temperature, top_k, top_p)
    tokens = _inverse_cdf((kept - most[..., None] / temperature).exp(), u)
    return SampledTokens(tokens, log_p_of(x, tokens) - log_z, best, most - log_z)


def _inverse_cdf(p: Tensor, u: Tensor) -> Tensor:
    """The token at which the running total of `p` (B,M,V), in any unit, first reaches `u` (B,M) of the whole; (B,M).

    In two steps, first to a part of the codes and then inside it: totals over V codes are never written down.
    """
    width = _width(p.shape[-1])
    parts = p.unflatten(-1, (p.shape[-1] // width, width))  # (B,M,C,W), C parts of W codes
    totals = parts.sum(-1).cumsum(-1)  #                      (B,M,C)
    u = u[..., None] * totals[..., -1:]  #                    (B,M,1)
    part = (totals < u).sum(-1, keepdim=True)  #              (B,M,1) the first part whose total reaches u
    before = totals.gather(-1, (part - 1).clamp(min=0)) * (part > 0)
    inside = parts.gather(-2, part[..., None].expand(*part.shape, width)).squeeze(-2).cumsum(-1)  # (B,M,W)
    u = torch.minimum(u - before, inside[..., -1:])  # the same sum in another order may be a little less
    return (part * width + (inside < u).sum(-1, keepdim=True)).squeeze(-1)


def _width(vocab_size: int) -> int:
    """The divisor nearest to the square root, from above: as many codes a part as parts, or somewhat more."""
    return next(w for w in range(math.isqrt(vocab_size - 1) + 1, vocab_size + 1) if vocab_size % w == 0)


def token_settings(settings: SamplingConfig) -> tuple[float, int, float]:
    """What `draw` is told of the settings: temperature, top_k, top_p."""
    return settings.temperature, settings.top_k, settings.top_p


def truncate(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits with all but the `top_k` best (0: all) and all outside the `top_p` nucleus at -inf, same shape."""
    if top_k and top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1)
        logits = torch.full_like(logits, float("-inf")).scatter(-1, kth.indices, kth.values)
    if top_p < 1:
        values, order = logits.sort(dim=-1, descending=True)
        p = values.softmax(-1)
        outside = p.cumsum(-1) - p >= top_p  # the best token always stays
        logits = logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), float("-inf"))
    return logits


def log_p_of(log_p: Tensor, tokens: Tensor) -> Tensor:
    """log p of the given tokens: (B,M,V), (B,M) -> (B,M)."""
    return log_p.gather(-1, tokens[..., None]).squeeze(-1)


def check_sampling(settings: SamplingConfig, n: int) -> None:
    """Raise InputError for a setting that its field does not allow, or that does not fit images of `n` tokens."""
    check(settings)
    if settings.steps > n:
        raise InputError(f"steps={settings.steps}: must be at most {n}, the number of tokens of an image")
