"""The feature extractor of the FID: the Inception network of 2015, with torch-fidelity's code and published weights.

Implementations of the FID prepare images in different ways, so their values differ. `mode` chooses the implementation
to follow; MODES has the description that reports state next to a value.

Letters: B batch, H W image, D features.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from emage.evaluation.networks import network_weights
from emage.evaluation.networks.network_weights import PublishedWeights, missing_package, read
from emage.utils.errors import InputError, one_line

Mode = Literal["torch-fidelity", "pytorch-fid", "clean"]
INPUT_SIZE = 299  # px
# The texts are part of names of folders and cache files: they do not change.
MODES: dict[Mode, str] = {
    "torch-fidelity": "torch-fidelity InceptionV3, TensorFlow 1 bilinear to 299 px, (x - 128) / 128",
    "pytorch-fid": "torch-fidelity InceptionV3, prepared as by pytorch-fid: bilinear to 299 px without antialias, "
    "align_corners=False, 2 x / 255 - 1",
    "clean": "torch-fidelity InceptionV3, prepared as by clean-fid's mode clean: PIL bicubic with antialias to 299 px, "
    "each channel in float and clipped to [0, 255], (x - 128) / 128",
}
WEIGHTS = PublishedWeights(
    "inception",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    95_628_359,
)
# D -> the layer whose mean over positions are these features. The FID uses 2048. Other implementations also offer 64,
# for sets with too few images for a covariance of 2048 features.
LAYERS = {64: "MaxPool_1", 2048: "Mixed_7c"}


class Inception:
    """A FeatureExtractor (features.py). Its name is "inception" only if its Frechet distance may be called FID.

    Args:
        path: The weights.
        device: Where the network runs.
        mode: How images are prepared; a key of MODES.
        width: D, a key of LAYERS.

    Raises:
        InputError: The file does not hold this network, or the package torch-fidelity is missing.
    """

    def __init__(
        self, path: str | Path, device: str | torch.device = "cpu", mode: Mode = "torch-fidelity", width: int = 2048
    ):
        whole = _load(path)
        layers = dict(whole.named_children())  # in the order of the forward pass; its own forward takes only uint8
        names = list(layers)
        used = [layers[name] for name in names[: names.index(LAYERS[width]) + 1]]
        self._network = nn.Sequential(*used, nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(device)
        self._prepare, self._device, self.width = PREPARE[mode], device, width
        weights = network_weights.describe(WEIGHTS, Path(path))
        self.name = "inception" if weights["published"] else "inception_unpublished"
        if width != 2048:
            self.name += f"_{width}"
        self.metadata: dict[str, Any] = {
            "network": "InceptionV3 of 2015-12-05, by torch-fidelity",
            "mode": mode,
            "preprocessing": MODES[mode],
            "weights_sha256": weights["sha256"],
            "published": weights["published"],
            "width": width,
        }

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Turn uint8 (B, 3, H, W) of any size into float32 (B, D) on the CPU."""
        return self._network(self._prepare(pixels.to(self._device))).cpu()


def _load(path: str | Path) -> nn.Module:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # takes 3 s
    except ImportError as error:
        raise missing_package("torch-fidelity", error) from None

    safe = io.BytesIO()  # torch-fidelity unpickles its file without restrictions: it gets one that `read` has checked
    torch.save(read(path), safe)
    safe.seek(0)
    try:
        return FeatureExtractorInceptionV3("inception", ["2048"], safe)
    except RuntimeError as error:
        raise InputError(f"{path} is not the Inception of {WEIGHTS.url}: {one_line(error)}") from None


# ---------------------------------------------------------------------------------------------------------------------
# Preparation of images: uint8 (B, 3, H, W) -> float32 (B, 3, 299, 299)


def _tensorflow(pixels: Tensor) -> Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resize

    return (resize(pixels.float(), size=(INPUT_SIZE, INPUT_SIZE), align_corners=False) - 128) / 128


def _pytorch(pixels: Tensor) -> Tensor:
    x = F.interpolate(pixels.float() / 255, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False)
    return 2 * x - 1


def _clean(pixels: Tensor) -> Tensor:
    channels = [_bicubic(channel) for channel in pixels.cpu().flatten(0, 1).numpy()]  #  3 B x (299, 299)
    x = torch.from_numpy(np.stack(channels)).unflatten(0, (-1, 3)).to(pixels.device)
    return (x - 128) / 128


def _bicubic(channel: np.ndarray) -> np.ndarray:
    image = Image.fromarray(channel.astype(np.float32))
    return np.asarray(image.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BICUBIC)).clip(0, 255)


PREPARE: dict[Mode, Callable[[Tensor], Tensor]] = {
    "torch-fidelity": _tensorflow,
    "pytorch-fid": _pytorch,
    "clean": _clean,
}
