"""Networks that turn images into vectors, which two sets of images are then compared by.

Letters: B batch, H W image, C channels of a latent, h w its grid, D features.
"""

import warnings
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from emage.evaluation.metrics import inception, network_weights
from emage.evaluation.metrics.inception import Inception, Mode
from emage.tokenizers import Tokenizer
from emage.tokenizers.dvae import DVAE, MARGIN


class Extractor(Protocol):
    name: str  # part of the names of its figures
    width: int  # D
    facts: dict[str, Any]  # network, mode, preprocessing, weights_sha256, published, width: what a report says of it

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> (B, D) float32 on the CPU."""
        ...


def load(
    wanted: Literal["inception", "tokenizer"],
    *,
    mode: Mode = "torch-fidelity",
    inception_file: str | None = None,
    tokenizer: Tokenizer,
    device: str | torch.device = "cpu",
) -> Extractor:
    """The network asked for. Inception's weights: the file, else the cache, else fetched.

    Where they cannot be fetched: a warning, and the tokenizer, which is always here. Raises InputError for a bad file.
    """
    if wanted == "tokenizer":
        return TokenizerFeatures(tokenizer, device)
    try:
        path = network_weights.find(inception.WEIGHTS, inception_file, fetch=True)
    except ConnectionError as error:
        warnings.warn(
            f"no Inception weights ({error}): images are compared by the tokenizer's features, which is no FID; "
            f"fetch {inception.WEIGHTS.url} where there is a network and pass {inception.WEIGHTS.setting}=FILE",
            stacklevel=2,
        )
        return TokenizerFeatures(tokenizer, device)
    assert path is not None  # fetched, or that failed
    return Inception(path, device, mode)


def figure_name(metric: str, extractor: Extractor) -> str:
    """What a figure may be called: without the published Inception "fid" is "frechet_NAME", "kid" is "kid_NAME"."""
    if extractor.name == "inception":
        return metric
    return f"{'frechet' if metric == 'fid' else metric}_{extractor.name}"


class TokenizerFeatures:
    """What a tokenizer's encoder sees: its latents, averaged over each quadrant so that layout counts."""

    name = "tokenizer"

    def __init__(self, tokenizer: Tokenizer, device: str | torch.device = "cpu"):
        """Moves the tokenizer to the device."""
        self._tokenizer, self._device = tokenizer.to(device), device
        self._side = side = tokenizer.config.resolution
        with torch.no_grad():
            self.width = 4 * latents(tokenizer, torch.zeros(1, 3, side, side, device=device)).shape[1]
        self.facts: dict[str, Any] = {
            "network": f"encoder of {tokenizer.name}, latents before quantizing, means of the four quadrants",
            "mode": "tokenizer",
            "preprocessing": f"x / 255, bilinear with antialias to {side} px where the size differs",
            "weights_sha256": tokenizer.sha256,
            "published": False,  # comparable with nobody's figures, whoever published the tokenizer
            "width": self.width,
        }

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> (B, D = 4 C) float32 on the CPU."""
        x = pixels.to(self._device).float() / 255
        if x.shape[2:] != (self._side, self._side):
            x = F.interpolate(x, size=(self._side, self._side), mode="bilinear", antialias=True)
        z = latents(self._tokenizer, x)  #                                 (B, C, h, w)
        return F.adaptive_avg_pool2d(z, 2).flatten(1).float().cpu()


def latents(tokenizer: Tokenizer, pixels: Tensor) -> Tensor:
    """pixels (B, 3, H, W) in [0, 1] -> (B, C, h, w), before each place is given one code.

    The dVAE has scores there, of 8,192 codes. What its decoder would read of them stands for a latent: the mean code.
    """
    if not isinstance(tokenizer, DVAE):
        return tokenizer.latents(pixels)
    scores = tokenizer.encoder((1 - 2 * MARGIN) * pixels + MARGIN)  #      (B, V, h, w)
    return tokenizer.decoder.blocks[0](scores.softmax(1))
