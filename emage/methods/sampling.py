"""Sampling: logits to tokens (temperature, top-k, top-p), and the sampling settings as keyword arguments.

Letters: B images, M positions of each, V codes. The noise on positions is in unmasking_order.py.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from emage.config import SamplingConfig, Schedule, UnmaskingOrder, check, nearest
from emage.config.model import GuidanceSchedule, Revise
from emage.utils.errors import InputError
from emage.utils.torch_compile import compilable


class SampledTokens(NamedTuple):
    """A sampled token at each of M positions, and the most probable token there."""

    tokens: Tensor  # (B,M) int64, sampled
    log_p: Tensor  # (B,M) float32, of those tokens; nats
    best: Tensor  # (B,M) int64, the most probable tokens
    best_log_p: Tensor  # (B,M) float32


@compilable
def sample_tokens(
    logits: Tensor, u: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> SampledTokens:
    """Sample a token at each position, by inverting the cumulative distribution.

    The log-probabilities are the model's own, before temperature and truncation: they rank positions, and a sampling
    setting must not reorder them.

    Args:
        logits: (B,M,V).
        u: One uniform random number per position, (B,M).
        temperature: 0 takes the most probable tokens.
        top_k: As for `truncate`.
        top_p: As for `truncate`.
    """
    x = logits.float()
    highest, best = x.max(-1)
    log_z = x.logsumexp(-1)
    if temperature == 0:
        return SampledTokens(best, highest - log_z, best, highest - log_z)
    kept = truncate(x / temperature, top_k, top_p)
    tokens = _inverse_cdf((kept - highest[..., None] / temperature).exp(), u)
    return SampledTokens(tokens, log_p_of(x, tokens) - log_z, best, highest - log_z)


def _inverse_cdf(p: Tensor, u: Tensor) -> Tensor:
    """Return the token (B,M) at which the cumulative sum of `p` (B,M,V), unnormalised, reaches `u` (B,M) of the total.

    In two stages, first a group of codes and then a code inside it: cumulative sums over V codes are not stored.
    """
    width = _width(p.shape[-1])
    groups = p.unflatten(-1, (p.shape[-1] // width, width))  # (B,M,C,W), C groups of W codes
    totals = groups.sum(-1).cumsum(-1)  #                      (B,M,C)
    u = u[..., None] * totals[..., -1:]  #                    (B,M,1)
    group = (totals < u).sum(-1, keepdim=True)  #              (B,M,1) the first group whose total reaches u
    before = totals.gather(-1, (group - 1).clamp(min=0)) * (group > 0)
    inside = groups.gather(-2, group[..., None].expand(*group.shape, width)).squeeze(-2).cumsum(-1)  # (B,M,W)
    u = torch.minimum(u - before, inside[..., -1:])  # the same sum in another order may be a little less
    return (group * width + (inside < u).sum(-1, keepdim=True)).squeeze(-1)


def _width(vocab_size: int) -> int:
    """Return the smallest divisor from the square root on: about as many codes per group as groups."""
    return next(w for w in range(math.isqrt(vocab_size - 1) + 1, vocab_size + 1) if vocab_size % w == 0)


def token_settings(settings: SamplingConfig) -> tuple[float, int, float]:
    """Return the arguments of `sample_tokens` that are settings: temperature, top_k, top_p."""
    return settings.temperature, settings.top_k, settings.top_p


def truncate(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Return logits with all but the `top_k` best (0: all) and all outside the `top_p` nucleus set to -inf."""
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
    """Return log p (B,M) of the given tokens (B,M) out of log p of all codes (B,M,V)."""
    return log_p.gather(-1, tokens[..., None]).squeeze(-1)


def check_sampling(settings: SamplingConfig, n: int) -> None:
    """Raise InputError for a setting that its field does not allow, or that does not fit images of `n` tokens."""
    check(settings)
    if settings.steps > n:
        raise InputError(f"steps={settings.steps}: must be at most {n}, the number of tokens of an image")


# --- Settings as keyword arguments ------------------------------------------------------------------------------------
#
# Every one is a field of SamplingConfig of the same name and type; None stands for the checkpoint's own setting.
# `generate`, `stream` and `inpaint` of emage/inference/pipeline.py list them in their signatures, for `help()` and
# IDEs; the other methods take `**sampling: Unpack[SamplingArguments]`. tests/methods/test_sampling_arguments.py
# compares all of them with SamplingConfig.

NAMES = tuple(item.name for item in fields(SamplingConfig))


class SamplingArguments(TypedDict, total=False):
    """The sampling settings as keyword arguments; `Emage.generate` documents each of them."""

    steps: int | None
    schedule: Schedule | None
    order: UnmaskingOrder | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    gumbel: float | None
    revise: Revise | None
    guidance: float | None
    guidance_schedule: GuidanceSchedule | None
    remask: float | None


def sampling_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling settings among the arguments of a call.

    Args:
        arguments: The caller's `locals()`, taken in its first line. Arguments that it does not have are in
            `arguments["unknown"]` and are returned as well: `sampling_settings` rejects them.
    """
    return {name: arguments[name] for name in NAMES} | arguments.get("unknown", {})


def sampling_settings(own: SamplingConfig, sampling: Mapping[str, Any], num_tokens: int) -> SamplingConfig:
    """Return the checkpoint's own settings with some replaced.

    Args:
        own: The checkpoint's settings.
        sampling: Settings by name; None: the checkpoint's own.
        num_tokens: Tokens of an image, which `steps` must not exceed.

    Raises:
        InputError: For an unknown name, naming the nearest one, or a value that is not allowed.
    """
    for name in sampling:
        if name not in NAMES:
            raise InputError(f"unknown sampling setting {name!r}{nearest(name, NAMES)}")
    settings = replace(own, **{name: value for name, value in sampling.items() if value is not None})
    check_sampling(settings, num_tokens)
    return settings
