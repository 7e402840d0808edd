"""An image with a hole: which tokens are known when drawing begins."""

from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emage.methods.masking import MASK
from emage.utils.errors import InputError


class InpaintingInput(NamedTuple):
    """An image of which a part is regenerated, at the model's size."""

    pixels: Tensor  # (1,3,H,W) float32 in [0,1]
    unknown: Tensor  # (N,) bool, the cells of the token grid that are regenerated


def prepare_inpainting(image: Image.Image, mask: Image.Image, grid: tuple[int, int], stride: int) -> InpaintingInput:
    """What is regenerated: every cell of the grid (rows, columns) with any white of `mask` in it, above half grey.

    The image is brought to the model's size by a resize and a centre crop, the mask with it; a cell is `stride` x
    `stride` pixels. No model is needed. Raises InputError for a mask that is black everywhere or of another size.
    """
    if mask.size != image.size:
        raise InputError(
            f"the mask is {mask.width}x{mask.height}, the image {image.width}x{image.height}: make them the same size"
        )
    (rows, columns), (height, width) = grid, (grid[0] * stride, grid[1] * stride)
    # In floats a box filter keeps a trace of the thinnest stroke; in bytes it would be rounded away.
    painted = mask.convert("L").point([0] * 128 + [255] * 128).convert("F")
    white = torch.from_numpy(np.asarray(_fit(painted, width, height, Image.Resampling.BOX)) > 0)
    unknown = white.view(rows, stride, columns, stride).any(3).any(1).flatten()
    if not unknown.any():
        raise InputError("the mask is black everywhere: paint white what is to be regenerated")
    return InpaintingInput(_to_pixels(_fit(image.convert("RGB"), width, height)), unknown)


@torch.no_grad()
def tokens(tokenizer: Any, canvas: InpaintingInput, device: torch.device) -> Tensor:
    """(N,) int64 tokens that drawing begins with, MASK where unknown."""
    return tokenizer.encode(canvas.pixels.to(device))[0].masked_fill(canvas.unknown.to(device), MASK)


def _fit(
    image: Image.Image, width: int, height: int, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Resized so that it covers width x height, then centre-cropped."""
    scale = max(width / image.width, height / image.height)
    image = image.resize((max(width, round(image.width * scale)), max(height, round(image.height * scale))), resampling)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _to_pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255  # (1,3,H,W)
