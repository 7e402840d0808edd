"""How much an image was changed, one number a pair. Letters: B pairs; images are uint8 (B, 3, H, W)."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from emage.evaluation.metrics.network_weights import Published, needs, read
from emage.utils.errors import InputError

ROUNDING = 1 / 12  # mean squared error of rounding to 8 bits: an exact copy counts as no better, so that means exist

MODE = "LPIPS 0.1, AlexNet"
ALEXNET = Published("lpips", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79")


def psnr(originals: Tensor, rebuilt: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB, at most 58.9; higher is better."""
    error = (originals.double() - rebuilt.double()).square().flatten(1).mean(1)  #  (B,)
    return 10 * (255**2 / error.clamp(min=ROUNDING)).log10()


class Lpips:
    """Zhang et al. 2018, version 0.1: how far two images look apart to AlexNet; 0 is equal, lower is better.

    Its few calibrated weights come with the package; AlexNet's are torchvision's.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu"):
        """Raises InputError where the file does not hold torchvision's AlexNet, or the package is missing."""
        try:
            import lpips
        except ImportError as error:
            raise needs("lpips", error) from None

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks torchvision for a network in the manner of 2021
            network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        alexnet = read(path)
        try:  # its slice2.3.weight is torchvision's features.3.weight
            wanted = {key: alexnet["features." + key.split(".", 1)[1]] for key in network.net.state_dict()}
            network.net.load_state_dict(wanted)
        except (KeyError, RuntimeError) as error:
            raise InputError(
                f"{path} is no AlexNet of {ALEXNET.url}: see {str(error).splitlines()[-1].strip()}"
            ) from None
        self._network, self._device = network.to(device), device

    @torch.no_grad()
    def __call__(self, originals: Tensor, rebuilt: Tensor) -> Tensor:
        """(B,) on the CPU."""
        a, b = (pixels.to(self._device).float() / 127.5 - 1 for pixels in (originals, rebuilt))
        return self._network(a, b).flatten().cpu()
