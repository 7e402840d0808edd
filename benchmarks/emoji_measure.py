"""Part of benchmarks/emoji.py: the distance of generated emoji to the real ones, by order and number of decoding steps.

Letters: n images, D features.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from emage.config import SamplingConfig, UnmaskingOrder
from emage.evaluation.metrics import frechet
from emage.evaluation.metrics.frechet import Moments
from emage.evaluation.networks.features import TokenizerFeatures
from emage.inference.pipeline import Emage
from emage.methods import METHODS
from emage.training.vqgan.report import reconstruct
from emage.utils import manifest

ORDERS: tuple[UnmaskingOrder, ...] = ("confidence", "halton")
NEAREST = 10  # real images among which the one of the same caption is looked for
IMAGES_AT_A_TIME = 50


class Real(NamedTuple):
    """The held-out images: captions, and features (n, D)."""

    captions: list[str]
    features: Tensor


def features(extractor: TokenizerFeatures, images: Tensor) -> Tensor:
    """Return the features (n, D) of images (n, 3, H, W), uint8."""
    return torch.cat([extractor(part) for part in images.split(IMAGES_AT_A_TIME)])


def scores(generated: Tensor, real: Tensor) -> dict[str, float]:
    """Compare features (n, D) of images for the same captions.

    Returns:
        `frechet`: the Frechet distance of both sets; lower is better. `nearest_10`: the fraction of generated images
        for which the real image of the caption is one of the ten nearest real ones.
    """
    own = torch.cdist(generated, real).argsort(1)[:, :NEAREST] == torch.arange(len(real))[:, None]
    return {
        "frechet": frechet.distance(Moments.of(generated), Moments.of(real)),
        f"nearest_{NEAREST}": own.any(1).float().mean().item(),
    }


def bounds(extractor: TokenizerFeatures, tokenizer: Any, held_out: Tensor, other: Tensor, real: Real) -> dict[str, Any]:
    """Return the scores of the tokenizer's own reconstructions, and of as many training images (n, 3, H, W)."""
    with torch.no_grad():
        parts = [reconstruct(tokenizer, part.float() / 255) for part in held_out.split(IMAGES_AT_A_TIME)]
    rebuilt = torch.cat(parts).mul(255).round().to(torch.uint8)
    return {
        "reconstructions": scores(features(extractor, rebuilt), real.features),
        "training_images": scores(features(extractor, other), real.features),
    }


class Setting(NamedTuple):
    """A way of generating: decoding steps, and order; None: the method leaves no choice of either."""

    steps: int
    order: UnmaskingOrder | None

    @property
    def name(self) -> str:
        """Return the name of the file of images."""
        return f"{self.order or 'fixed'}-{self.steps}"

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `Emage.generate`."""
        return {"steps": self.steps, "order": self.order} if self.order else {}


def settings_of(method: str, passes: Sequence[int], n: int) -> list[Setting]:
    """Return the settings that differ for a method, for images of `n` tokens."""
    few, many = (METHODS[method].num_steps(SamplingConfig(steps=steps), n) for steps in (1, n))
    if few == many:
        return [Setting(many, None)]
    orders = ("halton",) if getattr(METHODS[method], "TWO_STREAMS", False) else ORDERS  # it knows no confidence
    return [Setting(steps, order) for order in orders for steps in passes]


def measure(
    folder: Path, pipe: Emage, real: Real, extractor: TokenizerFeatures, passes: Sequence[int], batch: int
) -> list[dict[str, Any]]:
    """Generate an image per held-out caption in every setting that `folder` lacks; return the scores of all."""
    file = folder / "generation.json"
    found: list[dict[str, Any]] = manifest.read_json(file) or []
    method = pipe.config.method
    for setting in settings_of(method, passes, pipe.grid[0] * pipe.grid[1]):
        if any((row["steps"], row["order"]) == setting for row in found):
            continue
        started = time.monotonic()
        seeds = range(len(real.captions))
        images = pipe.generate(real.captions, seed=seeds, batch_size=batch, **setting.arguments)
        seconds = time.monotonic() - started
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        row = {**setting._asdict(), **scores(features(extractor, pixels), real.features)}
        row |= {"flops_per_image": generation_flops(pipe, setting), "s_per_image": seconds / len(images)}
        save_images(folder / f"{setting.name}.png", images)
        found.append(row)
        manifest.write_json(file, found)
        print(f"{method}, {setting.name}: Frechet distance {row['frechet']:.5f}, {seconds:.0f} s", flush=True)
    return found


def generation_flops(pipe: Emage, setting: Setting) -> int:
    """Count the FLOP of the matrix products for one image: text encoder and decoder, not the tokenizer."""
    # The counter counts the matrix products of the plain kernel, and does not support the CPU's fused kernels.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for _ in pipe.generation_steps(["a red circle"], [0], pipe.settings(**setting.arguments)):
            pass
    return counter.get_total_flops()


def save_images(path: Path, images: Sequence[Image.Image]) -> None:
    """Write the images side by side in rows of 20, in the order of the captions."""
    width, height = images[0].size
    sheet = Image.new("RGB", (20 * width, -(-len(images) // 20) * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % 20 * width, i // 20 * height))
    with manifest.new_file(path) as fresh:
        sheet.save(fresh, "PNG")


def read_image(path: Path, index: int, side: int) -> Image.Image:
    """Return one of the images that `save_images` wrote."""
    with Image.open(path) as sheet:
        left, top = index % 20 * side, index // 20 * side
        return sheet.crop((left, top, left + side, top + side))
