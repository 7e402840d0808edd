"""Classifier-free guidance, beyond the paper: a decoder that hears the caption louder than it was trained to."""

import torch
from torch import Tensor

from emage.config import SamplingConfig
from emage.model.transformer import Context


class GuidedDecoder:
    """Classifier-free guidance: the decoder's logits pushed away from those of the empty caption, u + s (c - u).

    s is the settings' guidance throughout, or grows to it in a line over the passes: early tokens are drawn freely.
    """

    def __init__(self, decoder, empty: Context, settings: SamplingConfig, num_steps: int):
        self._decoder, self._empty, self._settings = decoder, empty, settings
        self._num_passes = num_steps
        self._passes: Tensor | None = None  # () on the device, so that every pass is the same work

    def __call__(self, y: Tensor, context: Context, cache=None) -> Tensor:
        caches = cache or (None, None)
        return self._mixed(self._decoder(y, context, caches[0]), self._decoder(y, self._empty, caches[1]))

    def logits_at(self, y: Tensor, context: Context, places: Tensor) -> Tensor:
        return self._mixed(self._decoder.logits_at(y, context, places), self._decoder.logits_at(y, self._empty, places))

    def _mixed(self, c: Tensor, u: Tensor) -> Tensor:
        self._passes = torch.ones((), device=c.device) if self._passes is None else self._passes.add_(1)
        share = self._passes / self._num_passes if self._settings.guidance_schedule == "linear" else 1.0
        scale = 1 + (self._settings.guidance - 1) * share
        return u + scale * (c - u)

    def new_cache(self, batch: int, n: int):
        return self._decoder.new_cache(batch, n), self._decoder.new_cache(batch, n)
