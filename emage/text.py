"""Captions to text states: the text tower of CLIP (Sec. 4.5), last hidden state, trained with the rest.

Letters: B captions, S positions, D width.
"""

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from open_clip.transformer import QuickGELU, TextTransformer
from safetensors import SafetensorError
from torch import Tensor, nn

from emage.config import ModelConfig
from emage.errors import InputError
from emage.tokenizers.published import UNPICKLING_ERRORS

# (width, heads, layers); the tiny one has CLIP's architecture and vocabulary, and no published weights.
SIZES = {"clip_l14": (768, 12, 12), "clip_tiny": (64, 4, 4)}


class ClipText(nn.Module):
    """CLIP's causal text transformer without its projection: 123.1M parameters at ViT-L/14's size."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.width, heads, layers = SIZES[config.text]
        self.length = config.text_length
        self.frozen = config.text_frozen
        self.tower = TextTransformer(
            context_length=self.length,
            width=self.width,
            heads=heads,
            layers=layers,
            act_layer=QuickGELU,  # as OpenAI trained it
            proj_type="none",
            output_tokens=True,
        )
        self._tokenizer = open_clip.SimpleTokenizer(context_length=self.length)
        if self.frozen:
            self.requires_grad_(False)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """(B,S) int64 ids; padded with 0 after the end-of-text token, longer captions cut."""
        return self._tokenizer(list(captions))

    def forward(self, ids: Tensor) -> Tensor:
        """(B,S) ids -> (B,S,D) states after the last norm."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.tower(ids)[1]


def load_published(encoder: ClipText, config: ModelConfig) -> None:
    """Fills the tower with published weights: `config.text_weights`, or OpenAI's ViT-L/14 by name.

    Does nothing for clip_tiny without a file. Raises InputError where the weights cannot be had or do not fit.
    """
    if config.text == "clip_tiny" and config.text_weights is None:
        return
    weights, path = clip_weights(config.text_weights)
    wanted = encoder.tower.state_dict()
    for key, value in wanted.items():
        if key == "positional_embedding" and key in weights:
            weights[key] = weights[key][: encoder.length]
        if key not in weights or weights[key].shape != value.shape:
            raise InputError(f"{path} does not hold the text tower of {config.text}: see {key}")
    encoder.tower.load_state_dict({key: weights[key] for key in wanted})


def clip_weights(path: str | None) -> tuple[dict[str, Tensor], str]:
    """The float32 state dict of a whole CLIP model, and the file it came from.

    Takes OpenAI's own `.pt` (a TorchScript archive), or open_clip's `.safetensors` or `.bin`. Without a path OpenAI's
    ViT-L/14 is downloaded by name, once.
    """
    published = open_clip.get_pretrained_cfg("ViT-L-14", "openai")
    weights: Any
    try:
        path = path or open_clip.download_pretrained(published)
        try:
            weights = torch.jit.load(path, map_location="cpu").state_dict()
        except RuntimeError:  # no TorchScript
            weights = open_clip.factory.load_state_dict(path, weights_only=True)
    except (OSError, ValueError, SafetensorError, *UNPICKLING_ERRORS) as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise InputError(
            f"no CLIP weights ({why}): fetch {published['url']} where there is a network and pass the file "
            "(model.text_weights=FILE)"
        ) from None
    return {key: value.float() for key, value in weights.items()}, path
