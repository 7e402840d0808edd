"""Images as patches, for train_vqgan.py: the distinct patches, and which of them each image shows.

Letters: n images, H W their size, N patches per image, s their size in pixels, P distinct patches, B images per batch.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from emage.data.images import image_files


class PatchSet(NamedTuple):
    """All distinct patches (P, 3, s, s) of a data set, uint8, and the index of each image's patches (n, N)."""

    patches: Tensor
    indices: Tensor


def read_images(path: str, side: int, limit: int | None = None) -> Tensor:
    """Read images as squares (n, 3, side, side), uint8, which takes 3 side^2 bytes of memory per image.

    Args:
        path: A folder, a .tar, or a .parquet with a column `image` (emage/data/images/image_files.py).
        side: Width and height, px. Transparent images are read over white.
        limit: Read so many images, the first ones; None: all.

    Raises:
        InputError: There are none, or none can be decoded.
    """
    found = image_files.find(path)
    usable = image_files.check_images(found._replace(files=found.files[:limit]), crop=image_files.crop_exactly)
    print(f"{path}: {usable.summary()}")
    return torch.cat(list(image_files.batches(usable.files, side, 256, crop=image_files.crop_exactly)))


def to_pixels(images: np.ndarray) -> Tensor:
    """Convert images (n, H, W, 3) uint8 to pixels (n, 3, H, W) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def distinct_patches(images: Tensor, stride: int = 8) -> PatchSet:
    """Return the distinct patches of images (n, 3, H, W), uint8 or pixels in [0, 1], in the dtype of the images."""
    h, w = images.shape[2] // stride, images.shape[3] // stride
    patches = images.unflatten(3, (w, stride)).unflatten(2, (h, stride))  # (n, 3, h, s, w, s)
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)  # (n, N, 3*s*s)
    keys = patches if images.dtype == torch.uint8 else (patches * 255).round().to(torch.uint8)
    keys = np.ascontiguousarray(keys.flatten(0, 1).numpy())
    _, first, inverse = np.unique(keys.view(f"V{keys.shape[1]}").ravel(), return_index=True, return_inverse=True)
    distinct = patches.flatten(0, 1)[torch.from_numpy(first)].view(-1, 3, stride, stride)
    return PatchSet(distinct, torch.from_numpy(inverse).view(patches.shape[:2]))


def assemble(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Join patches (B, N, 3, s, s) to images (B, 3, H, W)."""
    return patches.unflatten(1, grid).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
