"""Ranking of candidate images by how well they fit their caption: by the model's own likelihood, or by CLIP.

Letters: B images, N image tokens.
"""

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
def likelihood(network: Network, method: str, y: Tensor, context: Context, rng: ImageRng, num_masks: int = 4) -> Tensor:
    """Return the model's mean log-probability per token of each image, (B,) nats; higher is better.

    It is estimated with random masks, sampled as in training of iterative1; exact for autoregressive and fully_nar.

    Args:
        network: The network.
        method: The name of its method.
        y: Tokens (B,N) of the images.
        context: Their captions as the network reads them, from `encode_text`.
        rng: One generator per image.
        num_masks: Random masks per image.
    """
    module = iterative1 if METHODS[method].PARTIAL_CONTEXT else METHODS[method]
    scores = torch.zeros(len(y), device=y.device)
    for _ in range(num_masks):
        loss = module.loss(network.decoder, y, context, ObjectiveConfig(), rng)
        log_p = log_p_of(loss.logits.float().log_softmax(-1), y)
        scores += (log_p * loss.masked).sum(1) / loss.masked.sum(1)
    return scores / num_masks


class ClipRanker:
    """Ranks images by their CLIP similarity to captions (paper, Sec. 4: the best of 16 candidates).

    Attributes:
        metadata: The names of model and weights, and the weights' sha256 (as of clip_similarity.Clip).
    """

    def __init__(self, weights: str | None = None, model: str = "ViT-L-14-quickgelu", device: str = "cpu"):
        """Load a CLIP model.

        Args:
            weights: A file, or a tag that open_clip publishes for the model; None: its default.
            model: A name that open_clip knows, or a .json file in the form of its model configs.
            device: "cpu" or "cuda".

        Raises:
            InputError: If model or weights are not available or do not fit each other.
        """
        from emage.inference.clip_similarity import Clip  # importing open_clip takes seconds

        try:
            self._clip = Clip(weights, model, device, "rank_weights")
        except InputError as error:
            raise InputError(f"rank=clip: {error} (rank=likelihood needs no weights)") from None
        self.metadata = self._clip.metadata

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        """Return the cosine similarity of image i and caption i: (B,) in [-1, 1]."""
        return self._clip.similarity(images, captions)
