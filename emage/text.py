"""Captions to text states: the text tower of CLIP (Sec. 4.5), last hidden state, trained with the rest.

Letters: B captions, S positions, D width.
"""

from collections.abc import Sequence

import open_clip
import torch
from open_clip.transformer import QuickGELU, TextTransformer
from torch import Tensor, nn

from emage.config import ModelConfig
from emage.errors import InputError

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
    """Fills the tower with OpenAI's ViT-L/14 weights: `config.text_weights` as a file, or downloaded by name.

    Takes OpenAI's own `.pt` or open_clip's `.safetensors` or `.bin`; the picture tower in them is left out. Does
    nothing for clip_tiny without a file. Raises InputError where the weights cannot be had or do not fit.
    """
    if config.text == "clip_tiny" and config.text_weights is None:
        return
    published = open_clip.get_pretrained_cfg("ViT-L-14", "openai")
    try:
        path = config.text_weights or open_clip.download_pretrained(published)
        weights: dict[str, Tensor] = open_clip.factory.load_state_dict(path, weights_only=True)  # type: ignore[assignment]
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no CLIP ViT-L/14 weights ({str(error).splitlines()[0]}): fetch {published['url']} where there is "
            "a network and pass model.text_weights=FILE"
        ) from None
    wanted = encoder.tower.state_dict()
    missing = sorted(wanted.keys() - weights.keys())
    if missing:
        raise InputError(f"{path} is no CLIP text tower: it has no {missing[0]}")
    found = {key: weights[key].float() for key in wanted}
    found["positional_embedding"] = found["positional_embedding"][: encoder.length]
    encoder.tower.load_state_dict(found)
