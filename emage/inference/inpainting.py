"""Inpainting: from an image and a mask to the tokens that generation starts with.

Letters: H W image in pixels, N image tokens.
"""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emage.data.images import colours
from emage.methods.masking import MASK
from emage.tokenizers import Tokenizer
from emage.utils.errors import InputError


class InpaintingInput(NamedTuple):
    """An image at the model's size, and the part of it that is regenerated."""

    pixels: Tensor  # (1,3,H,W) float32 in [0,1]
    masked: Tensor  # (N,) bool, the positions of the token grid that are regenerated


def prepare_inpainting(image: Image.Image, mask: Image.Image, grid: tuple[int, int], stride: int) -> InpaintingInput:
    """Resize and crop an image and its mask to the model's size, and find the tokens to regenerate. Needs no model.

    Args:
        image: The image, of any mode; transparent parts become white. It is resized and centre-cropped to the model's
            size.
        mask: Of the same size; white (above half grey) marks what is regenerated, transparency does not count. A token
            of which any pixel is marked is regenerated as a whole.
        grid: (rows, columns) of the model's tokens.
        stride: Side in pixels of a token, which covers stride x stride pixels.

    Raises:
        InputError: If the mask marks nothing of the centre that is kept, or has another size than the image.
    """
    if mask.size != image.size:
        raise InputError(
            f"the mask is {mask.width}x{mask.height}, the image {image.width}x{image.height}: make them the same size"
        )
    (rows, columns), (height, width) = grid, (grid[0] * stride, grid[1] * stride)
    marked = colours.to_grey(mask).point([0] * 128 + [255] * 128)
    # In floats a box filter keeps a trace of the thinnest stroke; in bytes it would be rounded away.
    cropped = _fit(marked.convert("F"), width, height, Image.Resampling.BOX)
    white = torch.from_numpy(np.asarray(cropped) > 0)
    masked = white.view(rows, stride, columns, stride).any(3).any(1).flatten()
    if not masked.any():
        raise InputError(_explain_unmarked(marked, width, height))
    return InpaintingInput(_to_pixels(_fit(colours.to_rgb(image), width, height)), masked)


def _explain_unmarked(marked: Image.Image, width: int, height: int) -> str:
    """Return why nothing of the centre is marked: the mask is black, or its white part is cropped away."""
    if (box := marked.getbbox()) is None:
        return "the mask is black everywhere: paint white what is to be regenerated"
    scale = max(width / marked.width, height / marked.height)
    kept = [min(size, round(side / scale)) for size, side in zip(marked.size, (width, height), strict=True)]
    left, top = ((size - side) // 2 for size, side in zip(marked.size, kept, strict=True))
    return (
        f"the mask is white only outside the centre of the image, which alone is kept: white from x={box[0]}, "
        f"y={box[1]} to x={box[2] - 1}, y={box[3] - 1}, kept from x={left}, y={top} to x={left + kept[0] - 1}, "
        f"y={top + kept[1] - 1}; crop image and mask to the part that you want"
    )


@torch.no_grad()
def encode(tokenizer: Tokenizer, given: InpaintingInput, device: torch.device) -> Tensor:
    """Return the tokens (N,) int64 that generation starts with: MASK where the image is regenerated."""
    return tokenizer.encode(given.pixels.to(device))[0].masked_fill(given.masked.to(device), MASK)


def _fit(
    image: Image.Image, width: int, height: int, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Resize so that the image covers width x height, then crop the centre."""
    scale = max(width / image.width, height / image.height)
    image = image.resize((max(width, round(image.width * scale)), max(height, round(image.height * scale))), resampling)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _to_pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255  # (1,3,H,W)
