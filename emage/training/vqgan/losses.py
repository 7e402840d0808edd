"""Loss, learning rate and latents of both trainings of a VQGAN: of the toy world's shapes, and of any images.

Letters: B images per batch, P patches, s their size in pixels, E size of a latent.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from emage.tokenizers.vqgan import VQGAN

SHAPE_WEIGHT = 4.0  # of the loss over pixels on or near a shape; 1 for the background
REPULSION_COSINE = 0.5  # between two latents, from which on they repel each other


def learning_rate(step: int, steps: int) -> float:
    """Return the fraction of the peak rate: 5 % warm-up, then a cosine to 0."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def pixel_loss(reconstructed: Tensor, true: Tensor) -> Tensor:
    """Return L1 + L2, with SHAPE_WEIGHT within 3 px of a shape: most of an image is background."""
    near = F.max_pool2d((true < 1).any(1, keepdim=True).float(), 7, stride=1, padding=3)
    weight = 1 + (SHAPE_WEIGHT - 1) * near
    error = reconstructed - true
    return ((error.abs() + error.square()) * weight).sum() / (3 * weight.sum())


def unit_latents(model: VQGAN, patches: Tensor) -> Tensor:
    """Encode patches (P, 3, s, s) to latents (P, E) of unit length."""
    return F.normalize(model.latents(patches).flatten(1), dim=1)


def repulsion(latents: Tensor) -> Tensor:
    """Return the loss that keeps the latents (P, E) of distinct patches apart, summed over each one's neighbours."""
    cosine = latents @ latents.T - 2 * torch.eye(len(latents))  # none repels itself
    return F.relu(cosine - REPULSION_COSINE).square().sum(1).mean()
