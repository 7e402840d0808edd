"""Logits to tokens: temperature, top-k, top-p. Position noise is elsewhere (masking.py): the two never mix.

Letters: B pictures, N image tokens, V codes.
"""

from typing import get_args

import torch
from torch import Tensor

from emage.config import Order, SamplingConfig, Schedule
from emage.errors import InputError
from emage.masking import PictureRng


def draw(logits: Tensor, settings: SamplingConfig, rng: PictureRng) -> tuple[Tensor, Tensor]:
    """A token for every position and its log-probability: (B,N,V) -> (B,N) int64, (B,N) float32.

    One uniform number a position, through the inverse of the cumulative distribution. The log-probability is the
    model's own, before temperature and truncation: it ranks positions, and a knob must not reorder them.
    """
    if settings.temperature == 0:
        return most_likely(logits)
    log_p = logits.float().log_softmax(-1)
    p = truncate(log_p / settings.temperature, settings.top_k, settings.top_p).softmax(-1)
    cdf = p.cumsum(-1)
    u = rng.uniform(logits.shape[1])[..., None] * cdf[..., -1:]  # rounding leaves the total a little off 1
    tokens = torch.searchsorted(cdf, u).squeeze(-1).clamp_(max=logits.shape[-1] - 1)
    return tokens, log_p_of(log_p, tokens)


def most_likely(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The best token for every position and its log-probability: (B,N,V) -> (B,N) int64, (B,N) float32."""
    best, tokens = logits.float().max(-1)
    return tokens, best - logits.float().logsumexp(-1)


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
    """log p of the given tokens: (B,N,V), (B,N) -> (B,N)."""
    return log_p.gather(-1, tokens[..., None]).squeeze(-1)


def check_sampling(settings: SamplingConfig, n: int) -> None:
    """Raises InputError for a setting that makes no sense for pictures of `n` tokens."""
    bounds = {"steps": (1, n), "temperature": (0, 100), "top_k": (0, 1 << 20), "top_p": (1e-6, 1), "gumbel": (0, 1e3)}
    bounds |= {"guidance": (0, 100), "remask": (0, 0.99)}
    for name, (low, high) in bounds.items():
        value = getattr(settings, name)
        whole = name in ("steps", "top_k")
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
            raise InputError(f"{name} must {'be a whole number' if whole else 'lie'} in {low}..{high}, not {value}")
    choices = {"schedule": get_args(Schedule), "order": get_args(Order)}
    choices |= {"revise": ("argmax", "sample"), "guidance_schedule": ("constant", "linear")}
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise InputError(f"{name} must be one of {', '.join(allowed)}, not {getattr(settings, name)!r}")
