"""The codebook of train_vqgan.py: latents (P, E) and codes (V, E), both of unit length; ids (P,).

Letters: P patches, E size of a latent, V codes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LATENTS_AT_A_TIME = 1 << 16  # whose cosines to all codes are in memory at once


@torch.no_grad()
def assign(latents: Tensor, codes: Tensor) -> Tensor:
    """Return the id of the nearest code of each latent."""
    return torch.cat([(part @ codes.T).argmax(1) for part in latents.split(LATENTS_AT_A_TIME)])


@torch.no_grad()
def move_codes(codes: Tensor, latents: Tensor, ids: Tensor, decay: float) -> None:
    """Move every used code towards the mean of its latents; with decay 0, onto it."""
    used, inverse = ids.unique(return_inverse=True)
    mean = torch.zeros(len(used), latents.shape[1]).index_add_(0, inverse, latents)
    codes[used] = F.normalize(decay * codes[used] + (1 - decay) * F.normalize(mean, dim=1), dim=1)


@torch.no_grad()
def move_unused_codes(codes: Tensor, latents: Tensor, ids: Tensor) -> None:
    """Move unused codes onto the latents that are farthest from their own code."""
    unused = _without(codes, ids)
    error = (latents - codes[ids]).square().sum(1)
    worst = error.argsort(descending=True)[: len(unused)]
    codes[unused[: len(worst)]] = latents[worst]


@torch.no_grad()
def fix_codes(codes: Tensor, latents: Tensor, rng: torch.Generator, rounds: int = 1) -> Tensor:
    """Move used codes onto the means of their latents and the others far away from all latents.

    Rounding on another machine then picks the same codes. Returns the ids.

    Args:
        codes: (V, E), changed in place.
        latents: (P, E), of all patches.
        rng: Chooses the directions of unused codes.
        rounds: Repetitions of assigning latents and moving codes (k-means).
    """
    for _ in range(rounds):
        ids = assign(latents, codes)
        move_codes(codes, latents, ids, decay=0.0)
    unused = _without(codes, ids)
    candidates = F.normalize(torch.randn(20 * len(codes), codes.shape[1], generator=rng), dim=1)
    similarity = (candidates @ codes[ids.unique()].T).amax(1)
    codes[unused] = candidates[similarity.argsort()[: len(unused)]]
    return ids


def _without(codes: Tensor, ids: Tensor) -> Tensor:
    """Return the numbers of the codes that `ids` does not have."""
    return torch.ones(len(codes), dtype=torch.bool).index_fill_(0, ids, False).nonzero().squeeze(1)
