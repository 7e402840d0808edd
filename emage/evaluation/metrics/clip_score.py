"""CLIP score (Hessel et al. 2021): how well images fit their captions, by another CLIP than the one that ranked them.

Letters: B pairs of an image and its caption.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from emage.utils.errors import InputError

# The text is part of names of folders: it does not change.
MODE = "100 max(cos, 0), mean over pairs; Hessel et al. 2021 without their factor of 2.5 and their prompt"


class ClipScore:
    """A CLIP model that scores pairs of an image and a caption.

    Args:
        weights: A file, or a name that open_clip publishes. None: OpenAI's weights.
        model: Name of the architecture in open_clip. The default is the one of Hessel et al.
        device: Where the model runs.
        ranker: Metadata of the ClipRanker that selected the images, if one did.
        setting: Name of the setting of `weights`, for messages.

    Raises:
        InputError: The weights are unavailable, or they are the ranker's own.
    """

    def __init__(
        self,
        weights: str | None = None,
        model: str = "ViT-B-32-quickgelu",
        device: str = "cpu",
        *,
        ranker: dict[str, Any] | None = None,
        setting: str = "clip_score_weights",
    ):
        from emage.inference.clip_similarity import Clip  # importing open_clip takes seconds

        try:
            self._clip = Clip(weights, model, device, setting)
        except InputError as error:
            raise InputError(f"clip_score: {error}") from None
        self.metadata: dict[str, Any] = {**self._clip.metadata, "mode": MODE}
        if ranker and ranker["weights_sha256"] == self.metadata["weights_sha256"]:
            raise InputError(
                f"clip_score: a CLIP cannot score what it ranked: {self.metadata['model']} "
                f"({self.metadata['weights']}) is the ranker; choose another model"
            )

    def score(
        self, images: Iterable[Image.Image], captions: Iterable[str], batch_size: int = 64
    ) -> tuple[float, Tensor]:
        """Score images with their captions.

        Returns:
            The mean, and the score of each pair (B,) on the CPU, in [0, 100].

        Raises:
            InputError: There are no images.
        """
        pairs = zip(images, captions, strict=True)
        batches: list[Tensor] = []
        while batch := list(islice(pairs, batch_size)):
            cosines = self._clip.similarity(*map(list, zip(*batch, strict=True)))
            batches.append(100 * cosines.clamp(min=0).float().cpu())
        if not batches:
            raise InputError("clip_score: there are no images to score")
        scores = torch.cat(batches)  #  (B,)
        return float(scores.double().mean()), scores
