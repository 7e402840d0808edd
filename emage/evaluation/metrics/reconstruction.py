"""What images lose on their way through a tokenizer, by every judge whose weights are here.

Letters: B batch, H W image.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emage.evaluation.metrics import frechet, inception, network_weights, psnr_lpips
from emage.evaluation.metrics.frechet import Moments
from emage.evaluation.metrics.inception import Inception
from emage.evaluation.metrics.psnr_lpips import Lpips


@dataclass(frozen=True)
class Judges:
    """Networks that compare images; None where their weights are not here."""

    inception: Inception | None
    lpips: Lpips | None
    facts: dict[str, Any]  # by setting: what goes beside a figure, or how to get what is missing


def load_judges(inception_file: str | None, lpips_file: str | None, fetch: bool, device: str) -> Judges:
    """Those with a file or in the cache; with `fetch` the others are downloaded. Raises InputError for a bad file."""
    first = network_weights.find(inception.WEIGHTS, inception_file, fetch)
    second = network_weights.find(psnr_lpips.ALEXNET, lpips_file, fetch)
    return Judges(
        Inception(first, device) if first else None,
        Lpips(second, device) if second else None,
        {
            "inception": {"mode": inception.MODES["torch-fidelity"], **network_weights.facts(inception.WEIGHTS, first)},
            "lpips": {"mode": psnr_lpips.MODE, **network_weights.facts(psnr_lpips.ALEXNET, second)},
        },
    )


class Damage:
    """Adds up pairs of an original and what became of it."""

    def __init__(self, judges: Judges):
        self.judges = judges
        self.noise: list[Tensor] = []
        self.apart: list[Tensor] = []
        width = judges.inception.width if judges.inception else 0
        self.real, self.fake = Moments.none(width), Moments.none(width)

    def add(self, originals: Tensor, rebuilt: Tensor) -> None:
        """uint8 (B, 3, H, W), both."""
        self.noise.append(psnr_lpips.psnr(originals, rebuilt))
        if self.judges.lpips:
            self.apart.append(self.judges.lpips(originals, rebuilt))
        if self.judges.inception:
            self.real.update(self.judges.inception(originals))
            self.fake.update(self.judges.inception(rebuilt))

    def figures(self) -> dict[str, float | None]:
        """None: its judge is missing, or there were too few images to say anything."""
        return {
            "frechet": frechet.distance(self.real, self.fake) if self.real.n > 1 else None,
            "psnr": float(torch.cat(self.noise).mean()),
            "lpips": float(torch.cat(self.apart).mean()) if self.apart else None,
        }
