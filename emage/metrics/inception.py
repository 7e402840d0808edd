"""The features of the Frechet distance: the Inception network of 2015, in torch-fidelity's form.

Families of the distance differ in how they resize and so in their figures; MODE goes beside each that we report.
"""

import io
from pathlib import Path

import torch
from torch import Tensor

from emage.errors import InputError
from emage.metrics.weights import Published, needs, read

MODE = "torch-fidelity InceptionV3, TensorFlow 1 bilinear to 299 px, (x - 128) / 128, 2048 features"
WEIGHTS = Published(
    "inception",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d",
)


class Inception:
    width = 2048  # D, the features of its last pooling

    def __init__(self, path: str | Path, device: str | torch.device = "cpu"):
        """Raises InputError where the file does not hold this network, or its package is missing."""
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # 3 s
        except ImportError as error:
            raise needs("torch-fidelity", error) from None

        safe = io.BytesIO()  # it would unpickle a file with torch's unsafe loader
        torch.save(read(path), safe)
        safe.seek(0)
        try:
            self._network = FeatureExtractorInceptionV3("inception", [str(self.width)], safe).to(device)
        except RuntimeError as error:
            why = " ".join(str(error).split())[:300]  # one line, of the names of 500 tensors
            raise InputError(f"{path} is no Inception of {WEIGHTS.url}: {why}") from None
        self._device = device

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) of any size -> (B, D) float32."""
        return self._network(pixels.to(self._device))[0]
