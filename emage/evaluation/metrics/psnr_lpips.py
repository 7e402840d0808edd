"""PSNR and LPIPS: distances between images and their reconstructions, one number per pair.

Letters: B pairs. Images are uint8 (B, 3, H, W).
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from emage.evaluation.networks.network_weights import PublishedWeights, missing_package, read
from emage.utils.errors import InputError

# Mean squared error of rounding to 8 bits. An exact copy counts as this good and no better, so that means are finite.
ROUNDING_ERROR = 1 / 12

LPIPS_MODE = "LPIPS 0.1, AlexNet"
ALEXNET = PublishedWeights(
    "lpips",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    244_408_911,
)


def psnr(originals: Tensor, rebuilt: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio (B,) in dB, at most 58.9; higher is better."""
    error = (originals.double() - rebuilt.double()).square().flatten(1).mean(1)  #  (B,)
    return 10 * (255**2 / error.clamp(min=ROUNDING_ERROR)).log10()


class Lpips:
    """LPIPS 0.1 (Zhang et al. 2018): the distance of two images in AlexNet's features; 0 is equal, lower is better.

    The calibration weights are in the package `lpips`; AlexNet's weights are torchvision's.

    Args:
        path: AlexNet's weights.
        device: Where the network runs.

    Raises:
        InputError: The file does not hold torchvision's AlexNet, or the package is missing.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu"):
        try:
            import lpips
        except ImportError as error:
            raise missing_package("lpips", error) from None

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips uses arguments that torchvision has deprecated
            network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        alexnet = read(path)
        try:  # its slice2.3.weight is torchvision's features.3.weight
            wanted = {key: alexnet["features." + key.split(".", 1)[1]] for key in network.net.state_dict()}
            network.net.load_state_dict(wanted)
        except (KeyError, RuntimeError) as error:
            raise InputError(
                f"{path} is not the AlexNet of {ALEXNET.url}: see {str(error).splitlines()[-1].strip()}"
            ) from None
        self._network, self._device = network.to(device), device

    @torch.no_grad()
    def __call__(self, originals: Tensor, rebuilt: Tensor) -> Tensor:
        """Return the distances (B,) on the CPU."""
        a, b = (pixels.to(self._device).float() / 127.5 - 1 for pixels in (originals, rebuilt))
        return self._network(a, b).flatten().cpu()
