"""CLIP similarity of images and captions, by any model of open_clip; for ranking and for the CLIP score.

Letters: B pairs of an image and its caption.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from PIL import Image
from torch import Tensor

from emage.config import nearest
from emage.model.text import clip_weights
from emage.tokenizers.weight_files import fingerprint
from emage.utils.errors import InputError, one_line
from emage.utils.untrusted import plain_data


class Clip:
    """A CLIP model.

    Attributes:
        metadata: `model`, `weights` (a tag or a file's name) and `weights_sha256` (of the tensors).
    """

    def __init__(self, weights: str | None, model: str, device: str, setting: str):
        """Load a CLIP model.

        Images are preprocessed as the tag requires; for a file as the .json requires ("preprocess_cfg"), or as the
        default tag does.

        Args:
            weights: A file, or a tag that open_clip publishes for the model, downloaded once. None: the tag "openai",
                or else the first one.
            model: A name that open_clip knows, or a .json file in the form of its model configs; then `weights` is a
                file.
            device: "cpu" or "cuda".
            setting: The user's setting that `weights` comes from, for messages.

        Raises:
            InputError: If model or weights are not available or do not fit each other.
        """
        tag, published = _published(model, weights, setting)
        state, path = clip_weights(None if tag else weights, published, setting)
        # A tag states the activation of its weights; for a file the model's name does.
        network, self._transform, self._tokenize = _build(model, published, bool(tag and published.get("quick_gelu")))
        _fill(network, state, path, Path(model).name)
        self._network, self._device = network.to(device).eval(), device
        self.metadata = {
            "model": Path(model).name,
            "weights": tag or Path(path).name,
            "weights_sha256": fingerprint(network.state_dict()),
        }

    @torch.no_grad()
    def similarity(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        """Return the cosine similarity of image i and caption i: (B,) in [-1, 1]."""
        pixels = torch.stack([self._transform(image) for image in images]).to(self._device)
        image_vectors = self._network.encode_image(pixels, normalize=True)
        texts = self._network.encode_text(self._tokenize(list(captions)).to(self._device), normalize=True)
        return (image_vectors * texts).sum(-1)


def _published(model: str, weights: str | None, setting: str) -> tuple[str | None, dict[str, Any]]:
    """Return the tag that `weights` names, None for a file; and open_clip's settings of it, or of the default tag."""
    if not model.endswith(".json") and model not in (models := open_clip.list_models()):
        raise InputError(f"unknown CLIP model {model!r}{nearest(model, models)} (open_clip's names, or a config .json)")
    tags = open_clip.list_pretrained_tags_by_model(model)
    default = "openai" if "openai" in tags else next(iter(tags), "")
    wanted = weights or default
    if not wanted:
        raise InputError(f"{model} has no published weights: pass {setting}=FILE")
    if open_clip.is_pretrained_cfg(model, wanted):
        return wanted, open_clip.get_pretrained_cfg(model, wanted)
    file = Path(wanted)
    if not file.exists() and file.name == wanted and not file.suffix:
        raise InputError(
            f"{setting}={wanted}: no such file, and {model} has no weights of that name{nearest(wanted, tags)} "
            f"(published: {', '.join(tags) or 'none'})"
        )
    return None, open_clip.get_pretrained_cfg(model, default)


def _build(model: str, published: dict[str, Any], quick_gelu: bool) -> tuple[Any, Any, Any]:
    """Return the network with random weights, its image transform and its tokenizer."""
    try:
        with _quiet(), _open_clip_name(model) as name:
            network, _, transform = open_clip.create_model_and_transforms(
                name,
                pretrained=None,
                pretrained_text=False,
                force_quick_gelu=quick_gelu,
                image_mean=published.get("mean"),
                image_std=published.get("std"),
                image_interpolation=published.get("interpolation"),
                image_resize_mode=published.get("resize_mode"),
            )
            return network, transform, open_clip.get_tokenizer(name)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError, ImportError) as error:
        raise InputError(
            f"{model}: open_clip cannot build this model ({type(error).__name__}: {one_line(error)})"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress open_clip's warning that the weights are random: they are loaded next."""
    root = logging.getLogger()

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return record.pathname != open_clip.factory.__file__

    root.addFilter(from_elsewhere)
    try:
        yield
    finally:
        root.removeFilter(from_elsewhere)


@contextmanager
def _open_clip_name(model: str) -> Iterator[str]:
    """Yield a name for open_clip; a .json, complete or only its "model_cfg", becomes a folder that open_clip reads."""
    if not model.endswith(".json"):
        yield model
        return
    config = plain_data.read_json(model)
    _refuse_downloads(config, model)
    with tempfile.TemporaryDirectory() as folder:
        whole = config if "model_cfg" in config else {"model_cfg": config}
        Path(folder, "open_clip_config.json").write_text(json.dumps(whole))
        yield f"local-dir:{folder}"


def _refuse_downloads(config: Any, model: str) -> None:
    """Raise InputError if open_clip would download parts that a config names, whoever wrote it, from the hub."""
    if isinstance(config, list):
        for value in config:
            _refuse_downloads(value, model)
    for key, value in config.items() if isinstance(config, dict) else ():
        is_source = key.startswith("hf_") and isinstance(value, str)
        is_place = key.startswith("timm_model_name") and not str(value).replace(".", "").isidentifier()
        if value and (is_source or is_place):
            raise InputError(
                f"{model}: {key}={value!r:.80} would be downloaded: name one of open_clip's own models, or a config "
                "whose parts open_clip has itself"
            )
        _refuse_downloads(value, model)


def _fill(network: Any, state: dict[str, Tensor], path: str, model: str) -> None:
    """Load weights in the formats that open_clip takes. Raise InputError if they are another model's."""
    state = convert_state_dict(network, state)
    if not hasattr(network, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    try:
        missing = network.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:
        raise InputError(f"{path} does not fit {model}: {one_line(error)}") from None
    if missing:
        raise InputError(f"{path} does not fit {model}: it has no {missing[0]}")
