"""Unmasking order: which positions a decoding step unmasks, by confidence, at random or in a Halton sequence.

Letters: B images, N image tokens, T decoding steps.
"""

import functools

import torch
from torch import Tensor

from emage.config import UnmaskingOrder
from emage.methods.masking import MASK, Rng, grid_of, gumbel, halton_rank, top_k_mask
from emage.utils.torch_compile import compilable


def noise_table(first: float, steps: int, device: torch.device) -> Tensor:
    """Return the scale of the position noise at each step, (T,): it falls linearly from `first` to 0 at the last."""
    return first * (1 - torch.arange(1, steps + 1, device=device) / steps)


def position_scores(order: UnmaskingOrder, log_p: Tensor, fixed: Tensor, noise: Tensor, rng: Rng) -> Tensor:
    """Return the scores (B,N) of positions; a step keeps those with the highest.

    Args:
        order: The setting `sampling.order`. `confidence` scores by the model (Sec. 4), the others by `fixed`.
        log_p: (B,N) of the sampled tokens.
        fixed: (B,N) scores from `fixed_scores`.
        noise: () scale of the Gumbel noise that is added to `log_p`.
        rng: One generator per image.
    """
    return _noisy(log_p, noise, rng.uniform(log_p.shape[1])) if order == "confidence" else fixed


@compilable
def _noisy(log_p: Tensor, noise: Tensor, u: Tensor) -> Tensor:
    return log_p + noise * gumbel(u)


@compilable
def unmask_top_k(tokens: Tensor, scores: Tensor, unmasked: Tensor, mask_again: Tensor, count: Tensor) -> Tensor:
    """Return the tokens (B,N) at the `count` (B,) highest scores (B,N), MASK elsewhere (Algorithm 1, lines 4 and 5).

    Positions that are `unmasked` (B,N) stay so, whatever their scores, except those of `mask_again` (B,N).
    """
    scores = scores.masked_fill(unmasked, torch.inf).masked_fill(mask_again, -torch.inf)
    return tokens.masked_fill(~top_k_mask(scores, count), MASK)


def least_confident(unmasked: Tensor, log_p: Tensor, fraction: float, max_count: Tensor) -> Tensor:
    """Return (B,N) bool: the least probable `fraction`, rounded down, of a row's `unmasked` (B,N) positions (ours).

    They are masked again for a step and regenerated. At most `max_count` (B,) of a row: no more than are masked after
    this step anyway, so that the schedule stays.
    """
    if not fraction:  # the default: no sort
        return torch.zeros_like(unmasked)
    count = (unmasked.sum(1) * fraction).floor().long().minimum(max_count)
    return top_k_mask(-log_p.masked_fill(~unmasked, torch.inf), count)


def fixed_scores(order: UnmaskingOrder, n: int, rng: Rng) -> Tensor:
    """Return the scores (B,N) of the orders that do not depend on the model, once per image; 0 for `confidence`."""
    if order == "random":
        return rng.uniform(n)
    ranks = halton_rank(n, rng.device).float() if order == "halton" else torch.zeros(n, device=rng.device)
    return -ranks.expand(len(rng), n)


def masked_positions(y: Tensor, count: int) -> Tensor:
    """Return (B,count) int64, the positions of MASK in `y` (B,N) in order, then unmasked ones if a row has fewer."""
    return (y == MASK).byte().argsort(dim=-1, descending=True, stable=True)[:, :count]


def nearest_unmasked(y: Tensor) -> Tensor:
    """Return tokens (B,N) with every MASK replaced by the nearest unmasked token: a preview of an unfinished image."""
    distance = _distances(y.shape[1], y.device).masked_fill((y == MASK)[:, None], torch.iinfo(torch.int16).max)
    return y.gather(1, distance.argmin(dim=2))


@functools.cache
def _distances(n: int, device: torch.device) -> Tensor:
    """Return the squared distance (N,N) int16 of every two positions of the grid."""
    width = grid_of(n)[1]
    at = torch.arange(n)
    rows, columns = at // width, at % width
    squares = (rows[:, None] - rows).square() + (columns[:, None] - columns).square()
    return squares.clamp(max=torch.iinfo(torch.int16).max - 1).short().to(device)
