"""Classifier-free guidance (ours, not in the paper): it scales the difference of conditional and unconditional logits.

Letters: B images, N image tokens, M positions of each, V codes.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from emage.config import SamplingConfig
from emage.model.transformer import Context
from emage.utils.errors import InputError


class GuidedDecoder:
    """A decoder whose logits are u + s (c - u): c those of the caption, u those of the empty caption, s the scale.

    With a negative prompt u are its logits: generation is led away from it instead of from the average image.

    s is the setting `guidance` at every decoding step (guidance_schedule=constant), or rises linearly from 1, which is
    no guidance, to it at the last step (linear), so that the first tokens are sampled freely.
    """

    def __init__(self, decoder, negative: Context, settings: SamplingConfig, num_steps: int):
        self._decoder, self._negative, self._settings = decoder, negative, settings
        self._num_steps = num_steps
        self._step: Tensor | None = None  # () on the device, so that a CUDA graph can replay every step

    def __call__(self, y: Tensor, context: Context, cache=None) -> Tensor:
        """Return the logits (B,N,V) for the tokens `y` (B,N)."""
        caches = cache or (None, None)
        return self._mixed(self._decoder(y, context, caches[0]), self._decoder(y, self._negative, caches[1]))

    def logits_at(self, y: Tensor, context: Context, positions: Tensor) -> Tensor:
        """Return the logits (B,M,V) of the `positions` (B,M) only."""
        c = self._decoder.logits_at(y, context, positions)
        return self._mixed(c, self._decoder.logits_at(y, self._negative, positions))

    def _mixed(self, c: Tensor, u: Tensor) -> Tensor:
        self._step = torch.ones((), device=c.device) if self._step is None else self._step.add_(1)
        fraction = self._step / self._num_steps if self._settings.guidance_schedule == "linear" else 1.0
        scale = 1 + (self._settings.guidance - 1) * fraction
        return u + scale * (c - u)

    def new_cache(self, batch: int, n: int):
        """Return two empty caches of keys and values, for the caption and for the empty or negative one."""
        return self._decoder.new_cache(batch, n), self._decoder.new_cache(batch, n)

    def new_group_cache(self, batch: int, capacity: int):
        """Return two empty caches of groups, for the caption and for the empty or negative one."""
        return self._decoder.new_group_cache(batch, capacity), self._decoder.new_group_cache(batch, capacity)

    def next_group(self, tokens: Tensor, positions: Tensor, num_content: int, context: Context, cache, valid=None):
        """Return the logits (B,M,V) of the queries (Transformer.next_group)."""
        c = self._decoder.next_group(tokens, positions, num_content, context, cache[0], valid)
        return self._mixed(c, self._decoder.next_group(tokens, positions, num_content, self._negative, cache[1], valid))


def check_negative_prompts(negative_prompt: Any, num_images: int, settings: SamplingConfig) -> list[str]:
    """Return one negative prompt per image, "" for none. Warn of one that guidance is too low for.

    Args:
        negative_prompt: One text for all images, a sequence with one per image, or None.
        num_images: Number of images.
        settings: The sampling settings.

    Raises:
        InputError: If one is not a text, or their number is not `num_images`.
    """
    if negative_prompt is None or isinstance(negative_prompt, str):
        negative_prompt = [negative_prompt or ""] * num_images
    prompts: list[Any] = list(negative_prompt)
    if wrong := [prompt for prompt in prompts if not isinstance(prompt, str)]:
        raise InputError(f"negative_prompt must be text, or one text per prompt, not {type(wrong[0]).__name__}")
    if len(prompts) != num_images:
        raise InputError(f"{len(prompts)} negative prompts for {num_images} prompts: pass one, or one per prompt")
    if any(prompts) and not settings.reads_negative_prompts:
        warnings.warn(f"negative_prompt has no effect: guidance={settings.guidance:g} is not above 1", stacklevel=3)
    return prompts
