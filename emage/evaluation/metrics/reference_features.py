"""The real images that generated ones are compared with, and the features of them that are kept by content.

<cache>/metrics/reference/KEY.safetensors    `features` (M, D) float32, under their sha256

Letters: M real images, D features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from emage.evaluation.metrics import image_files, network_weights
from emage.evaluation.metrics.features import Extractor
from emage.evaluation.metrics.image_files import ImageFile, Survey
from emage.tokenizers.weight_files import fingerprint, write
from emage.utils import manifest


def find(place: str) -> Survey:
    """The images of a folder or a .tar: `files` that can be used, `refused` by cause, `sha256` of names and contents.

    Raises InputError where there are none.
    """
    return image_files.survey(image_files.find(place), cut=image_files.exact)


def features(files: Sequence[ImageFile], extractor: Extractor, side: int, batch_size: int) -> Tensor:
    """(M, D) float32, in the files' order."""
    batches = image_files.batches(files, side, batch_size, cut=image_files.exact)
    return torch.cat([extractor(pixels) for pixels in batches])


def facts(place: str, survey: Survey, side: int) -> dict[str, Any]:
    """What a report says of them."""
    return {
        "place": Path(place).absolute().name,
        "count": len(survey.files),
        "refused": dict(survey.refused),
        "sha256": survey.sha256,
        "preprocessing": preprocessing(side),
    }


def preprocessing(side: int) -> str:
    return f"upright, RGB, centre crop of the longer side, Lanczos with antialias to {side} px, not compressed again"


# --- The cache --------------------------------------------------------------------------------------------------------


def key(survey: Survey, extractor: Extractor, side: int) -> str:
    """Names the features of these images, whatever place they lie in."""
    return manifest.fingerprint([survey.sha256, extractor.facts, preprocessing(side)])


def load_cached(key: str) -> Tensor | None:
    """(M, D) float32; None where there are none, or the file is damaged."""
    try:
        with safetensors.safe_open(_path(key), framework="pt") as file:
            features = file.get_tensor("features")
            promised = (file.metadata() or {}).get("sha256")
    except (OSError, safetensors.SafetensorError):
        return None
    return features if fingerprint({"features": features}) == promised else None


def store(key: str, features: Tensor) -> None:
    path = _path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"features": features}
    write(tensors, path, {"sha256": fingerprint(tensors)})


def _path(key: str) -> Path:
    return network_weights.cache_folder() / "reference" / f"{key}.safetensors"
