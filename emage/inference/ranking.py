"""Which of several candidate images fits its caption best: by the model's own likelihood, or by CLIP."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from emage.config import ObjectiveConfig
from emage.methods import METHODS, iterative1
from emage.methods.masking import ImageRng
from emage.methods.sampling import log_p_of
from emage.model.transformer import Context, Network
from emage.utils.errors import InputError


@torch.no_grad()
def likelihood(network: Network, method: str, y: Tensor, context: Context, rng: ImageRng, draws: int = 4) -> Tensor:
    """Mean log-probability a token that the model gives to the images (B,N) it drew, (B,) nats; higher is better.

    Estimated by `draws` random maskings of the image, as #1 is trained; exact for the autoregressive model.
    """
    module = iterative1 if METHODS[method].PARTIAL_CONTEXT else METHODS[method]
    scores = torch.zeros(len(y), device=y.device)
    for _ in range(draws):
        terms = module.loss(network.decoder, y, context, ObjectiveConfig(), rng)
        log_p = log_p_of(terms.logits.float().log_softmax(-1), y)
        scores += (log_p * terms.masked).sum(1) / terms.masked.sum(1)
    return scores / draws


class ClipRanker:
    """CLIP similarity of images and captions (Sec. 4: rank 16 candidates, keep the best)."""

    def __init__(self, weights: str | None = None, model: str = "ViT-L-14-quickgelu", device: str = "cpu"):
        """`weights`, `model`: as of Clip. Raises InputError where they can't be had or do not fit each other."""
        from emage.inference.clip_similarity import Clip  # open_clip takes seconds, and most need no CLIP

        try:
            self._clip = Clip(weights, model, device, "rank_weights")
        except InputError as error:
            raise InputError(f"rank=clip: {error} (rank=likelihood needs no weights)") from None
        self.metadata = self._clip.metadata

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        """Cosine similarity of image i and caption i, (B,) in [-1, 1]."""
        return self._clip.similarity(images, captions)
