"""CLIP's text tower as the text encoder: its last hidden states, after the last norm.

Letters: B captions, S positions, D width.
"""

from collections.abc import Sequence
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from emage.config import ModelConfig
from emage.model.text.clip_tokenizer import encode, vocabulary
from emage.model.text.state_cache import StateCache
from emage.utils import manifest
from emage.utils.errors import InputError
from emage.utils.untrusted.safe_pickle import UNPICKLING_ERRORS, reason

# (width, heads, layers); the tiny one has CLIP's architecture and vocabulary, and no published weights.
SIZES = {"clip_l14": (768, 12, 12), "clip_tiny": (64, 4, 4)}

PUBLISHED = ("ViT-L-14", "openai")  # a model and a tag that open_clip knows
SHA256 = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"  # of OpenAI's own file


class ClipText(nn.Module):
    """CLIP's causal text transformer without its projection: 123.1M parameters at ViT-L/14's size."""

    def __init__(self, config: ModelConfig):
        from open_clip.transformer import QuickGELU, TextTransformer  # takes seconds, which a driver does not need

        super().__init__()
        self.name = config.text
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
        self._cache = StateCache()
        if self.frozen:
            self.requires_grad_(False)

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids (B,S) int64, padded with 0 after the end token, and (B,) bool: captions that were truncated."""
        start, end = vocabulary().sot_token_id, vocabulary().eot_token_id
        rows = [[start, *encode(caption), end] for caption in captions]
        truncated = np.array([len(row) > self.length for row in rows], dtype=bool)
        ids = np.zeros((len(rows), self.length), dtype=np.int64)
        for padded, row in zip(ids, rows, strict=True):
            padded[: len(row)] = row[: self.length]
        ids[truncated, -1] = end
        return torch.from_numpy(ids), torch.from_numpy(truncated)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the states (B,S,D) after the last norm for ids (B,S)."""
        if not self.frozen:
            return self._read(ids)
        with torch.no_grad():
            return self._cache(ids, self.tower, self._read)

    def load_published(self, path: str | None) -> None:
        """Load the text tower of a published CLIP model.

        Args:
            path: A local file with the weights of a whole CLIP model; None: OpenAI's ViT-L/14, downloaded once.

        Raises:
            InputError: The weights are not available or do not fit.
        """
        weights, path = clip_weights(path)
        wanted = self.tower.state_dict()
        for key, value in wanted.items():
            if key == "positional_embedding" and key in weights:
                weights[key] = weights[key][: self.length]
            if key not in weights or weights[key].shape != value.shape:
                raise InputError(f"{path} does not hold the text tower of {self.name}: see {key}")
        self.load_state_dict({f"tower.{key}": weights[key] for key in wanted})

    def _read(self, ids: Tensor) -> Tensor:
        return self.tower(ids)[1]


def clip_weights(
    path: str | None, published: dict[str, Any] | None = None, setting: str = "model.text_weights"
) -> tuple[dict[str, Tensor], str]:
    """Return the float32 state dict of a whole CLIP model, and the file it was read from. No code in a file is run.

    Args:
        path: OpenAI's own `.pt` (a TorchScript archive), or open_clip's `.safetensors` or `.bin`; None: download the
            weights once.
        published: What to download: settings of open_clip (`get_pretrained_cfg`). None: those of PUBLISHED.
        setting: The user's setting that names the file, for messages.

    Raises:
        InputError: The weights are not available, or are a TorchScript archive that is not OpenAI's own.
    """
    import open_clip

    if published is None:
        published = open_clip.get_pretrained_cfg(*PUBLISHED)
    weights: Any  # open_clip's annotation, Tensor, is wrong
    try:
        path = path or open_clip.download_pretrained(published)
        weights = _torchscript(path) if _is_torchscript(path) else open_clip.factory.load_state_dict(path)
        return {key: value.float() for key, value in weights.items()}, path
    except InputError:
        raise
    except (OSError, ValueError, StopIteration, BadZipFile, SafetensorError, *UNPICKLING_ERRORS) as error:
        raise InputError(
            f"no CLIP weights ({reason(error)}): {_how_to_get(published)}pass the file ({setting}=FILE)"
        ) from None


def _how_to_get(published: dict[str, Any]) -> str:
    if not published:
        return ""
    source = published.get("url") or f"{published['hf_hub']} of the Hugging Face hub"
    return f"fetch {source} on a machine with a network and "


def _is_torchscript(path: str) -> bool:
    """Return True for a TorchScript archive, by the file inside that PyTorch itself looks for."""
    if not is_zipfile(path):
        return False
    with ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _torchscript(path: str) -> dict[str, Tensor]:
    """Return the state dict of one of OpenAI's own files. Raise InputError for others: loading runs the code inside."""
    if manifest.sha256(path) not in {SHA256, *_openai_digests()}:
        raise InputError(
            f"{path} is a TorchScript archive, whose code would run, and not one of OpenAI's own (its ViT-L/14 has the "
            f"sha256 {SHA256}): export its state dict to a .safetensors file and pass that"
        )
    return torch.jit.load(path, map_location="cpu").state_dict()


def _openai_digests() -> set[str]:
    """Return the sha256 of each file that OpenAI published, one per model: their URLs contain it."""
    import open_clip

    models = open_clip.list_pretrained_models_by_tag("openai")
    return {open_clip.get_pretrained_cfg(model, "openai")["url"].split("/")[-2] for model in models}
