"""How well a VQGAN reconstructs images, for train_vqgan.py: correct captions of shapes, PSNR, codes in use.

Letters: n images, H W their size.
"""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emage.data import shapes, shapes_checker
from emage.tokenizers.vqgan import VQGAN
from emage.training.vqgan.patches import distinct_patches, to_pixels

IMAGES_AT_A_TIME, IMAGES_PER_ROW = 50, 8


def correct_fraction(model: VQGAN, scenes: list[shapes.Scene], seed: int) -> float:
    """Return the fraction of reconstructions for which the checker confirms the caption."""
    reconstructed = reconstruct(model, to_pixels(shapes.render_many(scenes, seed)))
    images = (reconstructed * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    pairs = zip(images, scenes, strict=True)
    return float(np.mean([shapes_checker.check(Image.fromarray(a), s.caption).all_correct for a, s in pairs]))


def reconstruct(model: VQGAN, pixels: Tensor) -> Tensor:
    """Return pixels (n, 3, H, W) after encoding and decoding."""
    return torch.cat([model.decode(model.encode(part)) for part in pixels.split(IMAGES_AT_A_TIME)])


def psnr(model: VQGAN, images: Tensor) -> float:
    """Return the mean PSNR, dB, of the reconstructions of images (n, 3, H, W) uint8."""
    errors = [(reconstruct(model, pixels) - pixels).square().mean((1, 2, 3)) for pixels in _in_parts(images)]
    return float((-10 * torch.cat(errors).log10()).mean())


def codes_in_use(model: VQGAN, images: Tensor) -> int:
    """Return how many of the codes images (n, 3, H, W) uint8 are encoded with."""
    return len(torch.cat([model.encode(pixels).unique() for pixels in _in_parts(images)]).unique())


def _in_parts(images: Tensor) -> Iterator[Tensor]:
    return (part.float() / 255 for part in images.split(IMAGES_AT_A_TIME))


def smallest_code_margin(model: VQGAN, pixels: Tensor) -> float:
    """Return the smallest difference in cosine to the latent between the nearest code and the next."""
    latents = torch.nn.functional.normalize(model.latents(distinct_patches(pixels).patches).flatten(1), dim=1)
    best = (latents @ model.quantize.codes.T).topk(2, dim=1).values
    return float((best[:, 0] - best[:, 1]).min())


def comparison(model: VQGAN, pixels: Tensor, enlarge: int) -> Image.Image:
    """Return rows of images (n, 3, H, W), each above its reconstructions, `enlarge` times their size."""
    missing = -len(pixels) % IMAGES_PER_ROW
    pixels = torch.cat([pixels, torch.ones(missing, *pixels.shape[1:])])
    tiles = torch.stack([pixels, reconstruct(model, pixels)]).mul(255).round().to(torch.uint8).movedim(2, -1).numpy()
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=200)  # grey lines
    height, width = tiles.shape[2:4]
    rows = tiles.reshape(2, -1, IMAGES_PER_ROW, height, width, 3)  # (2, r, 8, y, x, 3)
    image_grid = Image.fromarray(rows.transpose(1, 0, 3, 2, 4, 5).reshape(-1, IMAGES_PER_ROW * width, 3))
    return image_grid.resize((enlarge * image_grid.width, enlarge * image_grid.height), Image.Resampling.NEAREST)
