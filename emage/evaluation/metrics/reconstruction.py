"""Reconstruction metrics of a tokenizer: Frechet distance, PSNR and LPIPS between images and their reconstructions.

Letters: B batch, H W image.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emage.evaluation.metrics import frechet, psnr_lpips
from emage.evaluation.metrics.frechet import Moments
from emage.evaluation.metrics.psnr_lpips import Lpips
from emage.evaluation.networks import inception, network_weights
from emage.evaluation.networks.inception import Inception


@dataclass(frozen=True)
class MetricNetworks:
    """Networks of the metrics; None if the weights are not available.

    `metadata` holds mode and weights of each network, or how to get missing ones, by the setting that names the file.
    """

    inception: Inception | None
    lpips: Lpips | None
    metadata: dict[str, Any]


def load_networks(inception_file: str | None, lpips_file: str | None, fetch: bool, device: str) -> MetricNetworks:
    """Load the networks whose weights are given as files or are in the cache.

    Args:
        inception_file: Inception's weights; None: from the cache.
        lpips_file: AlexNet's weights; None: from the cache.
        fetch: Download weights that are not in the cache.
        device: Where the networks run.

    Raises:
        InputError: A file is missing or holds something else.
    """
    inception_path = network_weights.find(inception.WEIGHTS, inception_file, fetch)
    alexnet_path = network_weights.find(psnr_lpips.ALEXNET, lpips_file, fetch)
    modes = {"inception": inception.MODES["torch-fidelity"], "lpips": psnr_lpips.LPIPS_MODE}
    weights = {
        "inception": network_weights.describe(inception.WEIGHTS, inception_path),
        "lpips": network_weights.describe(psnr_lpips.ALEXNET, alexnet_path),
    }
    return MetricNetworks(
        Inception(inception_path, device) if inception_path else None,
        Lpips(alexnet_path, device) if alexnet_path else None,
        {name: {"mode": mode, **weights[name]} for name, mode in modes.items()},
    )


class ReconstructionMetrics:
    """Accumulates the metrics over batches of originals and reconstructions."""

    def __init__(self, networks: MetricNetworks):
        self.networks = networks
        self.psnr: list[Tensor] = []
        self.lpips: list[Tensor] = []
        width = networks.inception.width if networks.inception else 0
        self.originals, self.rebuilt = Moments.empty(width), Moments.empty(width)

    def add(self, originals: Tensor, rebuilt: Tensor) -> None:
        """Add a batch; both are uint8 (B, 3, H, W)."""
        self.psnr.append(psnr_lpips.psnr(originals, rebuilt))
        if self.networks.lpips:
            self.lpips.append(self.networks.lpips(originals, rebuilt))
        if self.networks.inception:
            self.originals.update(self.networks.inception(originals))
            self.rebuilt.update(self.networks.inception(rebuilt))

    def values(self) -> dict[str, float | None]:
        """Return the metrics by name; None if the network is missing, or for a Frechet distance of one image."""
        return {
            "frechet": frechet.distance(self.originals, self.rebuilt) if self.originals.n > 1 else None,
            "psnr": float(torch.cat(self.psnr).mean()),
            "lpips": float(torch.cat(self.lpips).mean()) if self.lpips else None,
        }
