"""The real images that generated images are compared with, and a cache of their features, keyed by content.

<cache>/metrics/reference/KEY.safetensors    `features` (M, D) float32, with their sha256

Letters: M real images, D features.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from emage.config import JudgeConfig
from emage.data.images import image_files
from emage.data.images.image_files import FoundImages, ImageFile, UsableImages
from emage.evaluation import captioned_images
from emage.evaluation.caption_list import ListedCaption
from emage.evaluation.networks import network_weights
from emage.evaluation.networks.features import FeatureExtractor
from emage.tokenizers.weight_files import fingerprint, write
from emage.utils import manifest
from emage.utils.errors import InputError


def list_images(judge: JudgeConfig, captions: Sequence[ListedCaption]) -> FoundImages:
    """Return the real images to compare with: all of `judge.reference`, or those of the captions. None is read yet.

    Raises:
        InputError: There are none, or a caption's image is not there.
    """
    found = image_files.find(str(judge.reference))
    if judge.reference_images == "all":
        return found
    files = captioned_images.select(found.files, captions, str(judge.reference))
    return FoundImages(files, found.left_out + Counter({"not captioned": len(found.files) - len(files)}))


def check_images(judge: JudgeConfig, listed: FoundImages) -> UsableImages:
    """Return the images of `list_images` that can be decoded.

    Raises:
        InputError: There are none; or with `reference_images=captioned`, one of them cannot be decoded.
    """
    images = image_files.check_images(listed, crop=image_files.crop_exactly)
    if judge.reference_images == "captioned" and images.rejected:
        usable = set(images.files)
        first = next(file.name for file in listed.files if file not in usable)
        raise InputError(
            f"{judge.reference}: {images.rejected.total()} of the {len(listed.files)} images of the selected captions "
            f"cannot be decoded, the first is {first}; replace them, {captioned_images.REMEDY}"
        )
    return images


def features(files: Sequence[ImageFile], extractor: FeatureExtractor, side: int, batch_size: int) -> Tensor:
    """Compute the features (M, D), float32, in the order of the files; `side` is that of the generated images."""
    batches = image_files.batches(files, side, batch_size, crop=image_files.crop_exactly)
    return torch.cat([extractor(pixels) for pixels in batches])


def describe(judge: JudgeConfig, images: UsableImages, side: int) -> dict[str, Any]:
    """Return what reports state about the reference images."""
    return {
        "place": Path(str(judge.reference)).absolute().name,
        "images": judge.reference_images,
        "count": len(images.files),
        "refused": dict(images.rejected),
        "sha256": images.sha256,
        "preprocessing": preprocessing(side),
    }


def preprocessing(side: int) -> str:
    """Describe how the images are prepared. The text is part of cache keys on disk."""
    return f"upright, RGB, centre crop of the longer side, Lanczos with antialias to {side} px, not compressed again"


# --- The cache --------------------------------------------------------------------------------------------------------


def key(images: UsableImages, extractor: FeatureExtractor, side: int) -> str:
    """Return the cache key of the features of these images. It does not depend on the folder that they are in."""
    return manifest.fingerprint([images.sha256, extractor.metadata, preprocessing(side)])


def load_cached(key: str) -> Tensor | None:
    """Return the features (M, D), float32; None if they are not in the cache, or the file is damaged."""
    try:
        with safetensors.safe_open(_path(key), framework="pt") as file:
            features = file.get_tensor("features")
            promised = (file.metadata() or {}).get("sha256")
    except (OSError, safetensors.SafetensorError):
        return None
    return features if fingerprint({"features": features}) == promised else None


def store(key: str, features: Tensor) -> None:
    """Write the features into the cache."""
    path = _path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"features": features}
    write(tensors, path, {"sha256": fingerprint(tensors)})


def _path(key: str) -> Path:
    return network_weights.cache_folder() / "reference" / f"{key}.safetensors"
