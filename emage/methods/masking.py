"""Masking: schedules of how many tokens are kept, random numbers per image, training masks, the Halton order.

Letters: B images, N image tokens, T decoding steps, t the step (1..T). MASK stands for [MASK] in token tensors.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from emage.config import ObjectiveConfig, Schedule

MASK = -1  # input-only: the network has a row for it, its head has none
CPU = torch.device("cpu")


# --- Schedules --------------------------------------------------------------------------------------------------------


def num_kept(t: int, steps: int, n: int, schedule: Schedule = "cosine") -> int:
    """Return how many positions are unmasked after a decoding step: floor(tau(t/T) n) (Algorithm 1, line 4).

    tau is the fraction kept, 1 - gamma for MaskGIT's mask functions gamma. With x = t/T:

    | schedule | tau(x) | the fraction still masked, gamma = 1 - tau |
    | --- | --- | --- |
    | cosine | 1 - cos(pi/2 x) | concave: few tokens at first, many at the end (Sec. 3.2) |
    | square | x^2 | concave, close to the cosine |
    | cubic | x^3 | concave, still fewer at first |
    | linear | x | the same number every step |
    | sqrt | sqrt(x) | convex: many tokens at first, while few are unmasked |

    Every step unmasks at least one more position until all are unmasked, and the last unmasks all n. The floor alone
    does not ensure that: floor((1 - cos(pi/2)) * 1024) is 1023 in float64.

    Args:
        t: The step, 1 to `steps`.
        steps: T, the number of decoding steps.
        n: Tokens of the image.
        schedule: The name of tau.

    Raises:
        ValueError: `t` is outside 1..steps.

    Examples:
        >>> [num_kept(t, steps=4, n=64, schedule="cosine") for t in (1, 2, 3, 4)]
        [4, 18, 39, 64]
    """
    if not 1 <= t <= steps:
        raise ValueError(f"step {t} is outside 1..{steps}")
    return _kept(steps, n, schedule)[t - 1]


@functools.lru_cache(maxsize=4096)
def _kept(steps: int, n: int, schedule: Schedule) -> tuple[int, ...]:
    kept: list[int] = []
    for t in range(1, steps + 1):
        kept.append(min(n, max(_floor_tau(t, steps, n, schedule), (kept[-1] if kept else 0) + 1)))
    kept[-1] = n
    return tuple(kept)


def _floor_tau(t: int, steps: int, n: int, schedule: Schedule) -> int:
    """Return floor(tau(t/T) n), in integers if possible: floats lose a position (29/100 * 100 is 28.999...)."""
    match schedule:
        case "linear":
            return t * n // steps
        case "square":
            return t**2 * n // steps**2
        case "cubic":
            return t**3 * n // steps**3
        case "sqrt":
            return math.isqrt(t * n**2 // steps)
        case "cosine":  # 1e-9: at t/T = 2/3 and 1, where it is whole, floats fall short of it
            return math.floor((1 - math.cos(math.pi / 2 * t / steps)) * n + 1e-9)


@functools.lru_cache(maxsize=8)
def kept_table(n: int, steps: int, schedule: Schedule, device: torch.device) -> Tensor:
    """Return (T,n+1) int32: at [t-1,m] how many positions are unmasked after step t, if m of `n` were masked at first.

    The n - m positions that are given in inpainting are not counted. The images of a batch may differ in m. With a
    table of all m the device looks the counts up itself, and the host does not wait for it.
    """
    return torch.from_numpy(_kept_by_masked(n, steps, schedule)).to(device)


@functools.lru_cache(maxsize=8)
def max_masked(n: int, steps: int, schedule: Schedule) -> tuple[int, ...]:
    """Return, for each step, the largest number of `n` positions that can be masked before it, in any inpainting."""
    still_masked = (np.arange(n + 1) - _kept_by_masked(n, steps, schedule)).max(axis=1)
    return (n, *still_masked[:-1].tolist())


@functools.lru_cache(maxsize=8)
def max_kept_per_step(n: int, steps: int, schedule: Schedule) -> tuple[int, ...]:
    """Return, for each step, the largest number of `n` positions that it can newly keep, in any inpainting."""
    newly_kept = np.diff(_kept_by_masked(n, steps, schedule), axis=0, prepend=0)
    return tuple(newly_kept.max(axis=1).tolist())


@functools.lru_cache(maxsize=8)
def _kept_by_masked(n: int, steps: int, schedule: Schedule) -> np.ndarray:
    """Return the table of `kept_table` on the host."""
    rows = [(0,) * steps] + [_kept(steps, masked, schedule) for masked in range(1, n + 1)]
    return np.array(rows, dtype=np.int32).T


# --- Randomness -------------------------------------------------------------------------------------------------------


class ImageRng:
    """Uniform random numbers for a batch in which every image has its own generator.

    The numbers of an image do not depend on the rest of the batch, nor on the device: the generators run on the CPU.
    """

    def __init__(self, seeds: Sequence[int], device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def uniform(self, n: int) -> Tensor:
        """Return the next (B,n) numbers, float32 in (0, 1), both ends excluded: their logarithms are taken."""
        rows = torch.stack([torch.rand(n, generator=generator) for generator in self._generators])
        return rows.clamp_(2**-25, 1 - 2**-24).to(self.device, non_blocking=True)


class BufferedRng:
    """Numbers of an ImageRng, generated in advance and returned in the same order: decoding steps need not wait."""

    def __init__(self, numbers: Tensor):
        """`numbers` (B,R), R random numbers per image: from ImageRng.uniform, on the device of the model."""
        self.device, self._numbers, self._used = numbers.device, numbers, 0

    def __len__(self) -> int:
        return len(self._numbers)

    def uniform(self, n: int) -> Tensor:
        """Return the next (B,n) numbers."""
        start, self._used = self._used, self._used + n
        assert self._used <= self._numbers.shape[1], "a method uses more random numbers than its max_random_numbers"
        return self._numbers[:, start : self._used].contiguous()


Rng = ImageRng | BufferedRng


def gumbel(u: Tensor) -> Tensor:
    """Return standard Gumbel noise made of uniform numbers in (0, 1), same shape."""
    return -torch.log(-torch.log(u))


# --- Halton order -----------------------------------------------------------------------------------------------------


@functools.cache
def halton_rank(n: int, device: torch.device = CPU) -> Tensor:
    """Return the rank (N,) of every position in a Halton sequence (bases 2, 3) over the grid: early ones are far apart.

    The grid is the h x w = n nearest to a square.
    """
    height, width = grid_of(n)
    order: dict[int, None] = {}
    i = 1
    while len(order) < n:
        order.setdefault(int(_radical_inverse(i, 2) * height) * width + int(_radical_inverse(i, 3) * width))
        i += 1
    ranks = torch.empty(n, dtype=torch.int64)
    ranks[torch.tensor(list(order))] = torch.arange(n)
    return ranks.to(device)


def grid_of(n: int) -> tuple[int, int]:
    """Return the h x w = n that is nearest to a square."""
    height = max(d for d in range(1, math.isqrt(n) + 1) if n % d == 0)
    return height, n // height


def _radical_inverse(i: int, base: int) -> float:
    """Return the number whose digits after the point are those of `i` in `base`, mirrored."""
    value, scale = 0.0, 1.0 / base
    while i:
        value += scale * (i % base)
        i //= base
        scale /= base
    return value


# --- Masks ------------------------------------------------------------------------------------------------------------


def num_masked(r: Tensor, n: int, schedule: Schedule) -> Tensor:
    """Return how many of `n` positions to mask in training, (B,) int64 in 1..n, given r (B,) uniform on (0, 1].

    k = ceil(gamma n), which is uniform on 1..n for the linear schedule (Sec. 3.2: k ~ U(0, n]): the image that is
    masked everywhere, with which generation begins, is trained too. gamma(1 - r) is that of `num_kept` (Sec. 4.7,
    Figure 4); its mean is 1/2 for linear, 2/pi for cosine, 2/3 for square, 3/4 for cubic and 1/3 for sqrt.
    """
    return (_fraction_masked(r.double(), schedule) * n).ceil().long()  # float32 has gamma < 0 near r = 0


def _fraction_masked(r: Tensor, schedule: Schedule) -> Tensor:
    match schedule:
        case "linear":
            return r
        case "square":
            return 1 - (1 - r) ** 2
        case "cubic":
            return 1 - (1 - r) ** 3
        case "sqrt":
            return 1 - (1 - r).sqrt()
        case "cosine":
            return torch.cos(math.pi / 2 * (1 - r))


def random_mask(count: Tensor, n: int, rng: ImageRng) -> Tensor:
    """Return (B,N) bool with exactly `count` (B,) random positions True in each row."""
    return top_k_mask(rng.uniform(n), count)


def sample_mask(n: int, objective: ObjectiveConfig, rng: ImageRng) -> Tensor:
    """Return a training mask (B,N) bool, True where masked: a random count of positions (Algorithm 2, line 3).

    The positions are random, or with `mask_order=halton` (ours) the last of the Halton order: what is then visible is
    what generation in that order has unmasked.
    """
    count = sample_num_masked(n, objective.mask_schedule, rng)
    if objective.mask_order == "halton":
        return halton_rank(n, rng.device) >= (n - count)[:, None]
    return random_mask(count, n, rng)


def sample_num_masked(n: int, schedule: Schedule, rng: ImageRng) -> Tensor:
    """Return how many of `n` positions to mask in training, (B,) (Algorithm 2, lines 3 and 4)."""
    return num_masked(1 - rng.uniform(1)[:, 0], n, schedule)


def top_k_mask(scores: Tensor, count: Tensor) -> Tensor:
    """Return (B,N) bool, True at the `count` (B,) highest scores of each row. Equal scores: the earlier position first.

    The choice is by rank, which gives exact counts; a threshold on the score would miscount ties.
    """
    if torch.compiler.is_compiling():  # compiled, N x N comparisons are not stored, and faster than a sort
        earlier = torch.ones(scores.shape[1:] * 2, dtype=torch.bool, device=scores.device).tril(-1)  # [i,j]: j before i
        mine, other = scores[:, :, None], scores[:, None, :]
        return ((other > mine) | ((other == mine) & earlier)).sum(-1) < count[:, None]
    order = scores.argsort(dim=-1, descending=True, stable=True)
    first = torch.arange(scores.shape[1], device=scores.device) < count[:, None]
    return torch.zeros_like(first).scatter(1, order, first)
