"""Feature extractors: networks that turn images into vectors, by which two sets of images are compared.

Letters: B batch, H W image, C channels of a latent, h w rows and columns of latents, V codes, D features.
"""

import warnings
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from emage.evaluation.networks import inception, network_weights
from emage.evaluation.networks.inception import Inception, Mode
from emage.tokenizers import Tokenizer
from emage.tokenizers.dvae import DVAE, MARGIN


class FeatureExtractor(Protocol):
    """Interface of a feature extractor.

    `name` is part of the names of metrics. `metadata` goes into reports: network, mode, preprocessing, weights_sha256,
    published, width.
    """

    name: str
    width: int  # D
    metadata: dict[str, Any]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Turn uint8 (B, 3, H, W) into float32 (B, D) on the CPU."""
        ...


def load(
    wanted: Literal["inception", "tokenizer"],
    *,
    mode: Mode = "torch-fidelity",
    inception_file: str | None = None,
    tokenizer: Tokenizer,
    device: str | torch.device = "cpu",
) -> FeatureExtractor:
    """Load a feature extractor.

    If Inception's weights are neither given, nor in the cache, nor can be fetched, a warning is issued and the features
    are those of the tokenizer, which is always available.

    Args:
        wanted: The network.
        mode: How images are prepared for Inception; one of `inception.MODES`.
        inception_file: Inception's weights; None: from the cache, or fetched.
        tokenizer: The model's tokenizer.
        device: Where the network runs.

    Raises:
        InputError: The file does not hold Inception's weights.
    """
    if wanted == "tokenizer":
        return TokenizerFeatures(tokenizer, device)
    try:
        path = network_weights.find(inception.WEIGHTS, inception_file, fetch=True)
    except ConnectionError as error:
        warnings.warn(
            f"no Inception weights ({error}): images are compared by the tokenizer's features, which is not an FID; "
            f"fetch {inception.WEIGHTS.url} on a machine with internet access and pass "
            f"{inception.WEIGHTS.setting}=FILE",
            stacklevel=2,
        )
        return TokenizerFeatures(tokenizer, device)
    assert path is not None  # with fetch=True it was found or an error was raised
    return Inception(path, device, mode)


class TokenizerFeatures:
    """Features of a tokenizer's encoder: its latents, averaged over each quadrant so that layout counts.

    The tokenizer is moved to the device.
    """

    name = "tokenizer"

    def __init__(self, tokenizer: Tokenizer, device: str | torch.device = "cpu"):
        self._tokenizer, self._device = tokenizer.to(device), device
        self._side = side = tokenizer.config.resolution
        with torch.no_grad():
            self.width = 4 * latents(tokenizer, torch.zeros(1, 3, side, side, device=device)).shape[1]
        # These texts are part of names of folders and cache files: they do not change.
        self.metadata: dict[str, Any] = {
            "network": f"encoder of {tokenizer.name}, latents before quantizing, means of the four quadrants",
            "mode": "tokenizer",
            "preprocessing": f"x / 255, bilinear with antialias to {side} px where the size differs",
            "weights_sha256": tokenizer.sha256,
            "published": False,  # not comparable with published FIDs, even if the tokenizer is published
            "width": self.width,
        }

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Turn uint8 (B, 3, H, W) into float32 (B, D = 4 C) on the CPU."""
        x = pixels.to(self._device).float() / 255
        if x.shape[2:] != (self._side, self._side):
            x = F.interpolate(x, size=(self._side, self._side), mode="bilinear", antialias=True)
        z = latents(self._tokenizer, x)  #                                 (B, C, h, w)
        return F.adaptive_avg_pool2d(z, 2).flatten(1).float().cpu()


def latents(tokenizer: Tokenizer, pixels: Tensor) -> Tensor:
    """Return the latents (B, C, h, w) of pixels (B, 3, H, W) in [0, 1], before quantization.

    The dVAE has no latents but scores of its codes. Its latent is the mean code by the softmax of the scores, which is
    what its decoder would read.
    """
    if not isinstance(tokenizer, DVAE):
        return tokenizer.latents(pixels)
    scores = tokenizer.encoder((1 - 2 * MARGIN) * pixels + MARGIN)  #      (B, V, h, w)
    return tokenizer.decoder.blocks[0](scores.softmax(1))
