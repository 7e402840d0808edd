"""Checks of a tokenizer's input: pixels and token ids.

Letters: B images, N tokens, H W image in pixels, h w token grid.
"""

import math

from torch import Tensor


def check_pixels(pixels: Tensor, stride: int, name: str) -> None:
    """Raise ValueError unless pixels are (B,3,H,W) with H and W multiples of `stride`. `name`: of the tokenizer."""
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"pixels must be (batch, 3, height, width), not {tuple(pixels.shape)}")
    if pixels.shape[2] % stride or pixels.shape[3] % stride or 0 in pixels.shape[2:]:
        raise ValueError(f"{name} needs sides that are multiples of {stride} px, not {tuple(pixels.shape[2:])}")


def to_grid(ids: Tensor, vocab_size: int, grid: tuple[int, int] | None) -> Tensor:
    """Return ids (B,N) as (B,h,w). `grid`: (h,w); None: a square. Raise ValueError if ids are not in the vocabulary."""
    if ids.ndim != 2:
        raise ValueError(f"ids must be (batch, tokens), not {tuple(ids.shape)}")
    side = math.isqrt(ids.shape[1])
    h, w = grid or (side, side)
    if h * w != ids.shape[1]:
        raise ValueError(f"{ids.shape[1]} tokens do not fill a {h} x {w} grid: pass the correct grid=(h, w)")
    if ids.numel() and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise ValueError(f"ids must be in 0..{vocab_size - 1}; found {int(ids.min())}..{int(ids.max())}")
    return ids.unflatten(1, (h, w))
