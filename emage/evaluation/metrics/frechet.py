"""Frechet distance of two sets of images: between the Gaussians with the means and covariances of their features.

Moments are additive: those that several workers count merge to those that one of them would have counted. Everything is
float64, because the distance is a small difference of large sums.

Letters: B batch, n vectors so far, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_IMAGES_FOR_FID = 2048  # Inception's D: with fewer images the covariance is singular and the distance much too large


@dataclass
class Moments:
    """Count, mean and scatter (the sum of (x - mean)(x - mean)^T) of feature vectors."""

    n: int
    mean: Tensor  # (D,)
    scatter: Tensor  # (D, D)

    @classmethod
    def empty(cls, width: int) -> "Moments":
        """Return the moments of no vectors; `width` is D."""
        return cls(0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64))

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Return the moments of the vectors (B, D)."""
        moments = cls.empty(features.shape[1])
        moments.update(features)
        return moments

    def update(self, features: Tensor) -> None:
        """Add a batch of vectors (B, D)."""
        if not len(features):
            return
        x = features.detach().to("cpu", torch.float64)  #         (B, D)
        mean = x.mean(0)  #                                       (D,)
        x = x - mean
        self.merge(Moments(len(x), mean, x.T @ x))

    def merge(self, other: "Moments") -> None:
        """Add other moments (Chan et al. 1979), without large sums of squares that cancel."""
        n = self.n + other.n
        if not n:
            return
        step = other.mean - self.mean  #                          (D,)
        self.scatter += other.scatter + step.outer(step) * (self.n * other.n / n)
        self.mean = self.mean + step * (other.n / n)
        self.n = n

    @property
    def covariance(self) -> Tensor:
        """(D, D), unbiased."""
        if self.n < 2:
            raise ValueError(f"a covariance needs two vectors or more, not {self.n}")
        return self.scatter / (self.n - 1)


def distance(a: Moments, b: Moments) -> float:
    """Return |m_a - m_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^1/2). With Inception's features it is the FID."""
    s_a, s_b = a.covariance, b.covariance
    root = _root(s_a)
    # This symmetric matrix has the eigenvalues of S_a S_b; they come out real and are quick to compute.
    eigenvalues = torch.linalg.eigvalsh(root @ s_b @ root)  #     (D,)
    cross = eigenvalues.clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + s_a.trace() + s_b.trace() - 2 * cross)


def _root(s: Tensor) -> Tensor:
    """Return the symmetric square root of a covariance; eigenvalues that rounding made negative count as 0."""
    eigenvalues, vectors = torch.linalg.eigh(s)
    return (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T
