"""CLIP score (Hessel et al. 2021): how well images fit their captions, by a CLIP that had no part in choosing them.

Letters: B pairs of an image and its caption.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from emage.utils.errors import InputError

MODE = "100 max(cos, 0), mean over pairs; Hessel et al. 2021 without their factor of 2.5 and their prompt"


class ClipScore:
    def __init__(
        self,
        weights: str | None = None,
        model: str = "ViT-B-32-quickgelu",
        device: str = "cpu",
        *,
        ranker: dict[str, Any] | None = None,
        setting: str = "clip_score_weights",
    ):
        """The default is the authors' model. `weights`, `model`: as of Clip; `ranker`: the facts of the ClipRanker that
        chose the images, if one did.

        Raises InputError where they cannot be had, or are the ranker's own.
        """
        from emage.inference.clip_similarity import Clip  # open_clip takes seconds, and most need no CLIP

        try:
            self._clip = Clip(weights, model, device, setting)
        except InputError as error:
            raise InputError(f"clip_score: {error}") from None
        self.facts: dict[str, Any] = {**self._clip.metadata, "mode": MODE}
        if ranker and ranker["weights_sha256"] == self.facts["weights_sha256"]:
            raise InputError(
                f"clip_score: a CLIP cannot judge what it ranked: {self.facts['model']} ({self.facts['weights']}) "
                "is the ranker; choose another model"
            )

    def score(
        self, images: Iterable[Image.Image], captions: Iterable[str], batch_size: int = 64
    ) -> tuple[float, Tensor]:
        """The mean, and the score of each pair (B,) on the CPU, in [0, 100]. Raises InputError where there is none."""
        pairs = zip(images, captions, strict=True)
        parts: list[Tensor] = []
        while batch := list(islice(pairs, batch_size)):
            cosines = self._clip.similarity(*map(list, zip(*batch, strict=True)))
            parts.append(100 * cosines.clamp(min=0).float().cpu())
        if not parts:
            raise InputError("clip_score: there are no images to score")
        scores = torch.cat(parts)  #  (B,)
        return float(scores.double().mean()), scores
