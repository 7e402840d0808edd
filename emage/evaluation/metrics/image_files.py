"""Images on disk as squares: the files of a folder, however deep, and the members of .tar archives in it.

Two ways to cut them, for `survey` and `batches`: `ingested`, as ingest cuts what it downloads, so that a tokenizer is
shown here what it is shown there; `exact`, the same square without ingest's short cuts and compression, for figures.
Letters: B batch, H = W side.
"""

import hashlib
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from emage.config import DownloadConfig
from emage.data.ingest import decode_image
from emage.data.ingest.decode_image import ImageError
from emage.utils.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".png")
LIMITS = DownloadConfig()  # which images ingest refuses

Cut = Callable[[bytes, int], np.ndarray]  # a file's bytes, side -> (H, W, 3) uint8; raises ImageError


@dataclass(frozen=True)
class ImageFile:
    name: str  # below the folder; a member's follows its archive's
    path: Path
    offset: int = 0  # where its bytes lie in `path`
    size: int = -1  # -1: to the end

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass
class Survey:
    """What can be used of the images that were found."""

    files: list[ImageFile] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)  # cause -> how many
    sha256: str = ""  # of the names and contents of `files`


def find(place: str) -> list[ImageFile]:
    """The images of a folder or of one .tar, by name. Raises InputError where there are none."""
    root = Path(place)
    if not root.exists():
        raise InputError(f"{place}: no such folder or .tar of images")
    paths = sorted(root.rglob("*")) if root.is_dir() else [root]
    found = [file for path in paths if path.is_file() for file in _images_of(path, root)]
    if not found:
        raise InputError(f"{place}: no images in it ({', '.join(ENDINGS)}, or .tar archives of them)")
    return found


def _images_of(path: Path, root: Path) -> list[ImageFile]:
    name = path.relative_to(root).as_posix() if root.is_dir() else path.name
    if path.suffix.lower() in ENDINGS:
        return [ImageFile(name, path)]
    if path.suffix != ".tar":
        return []
    try:
        with tarfile.open(path) as archive:
            members = [m for m in archive if m.isfile() and m.name.lower().endswith(ENDINGS)]
    except tarfile.TarError as error:
        raise InputError(f"{path}: unreadable archive ({error})") from None
    members.sort(key=lambda member: member.name)
    return [ImageFile(f"{name}/{m.name}", path, m.offset_data, m.size) for m in members]


def ingested(data: bytes, side: int) -> np.ndarray:
    limits = {"min_size": LIMITS.min_image_size, "max_pixels": LIMITS.max_image_pixels}
    image = decode_image.make_square_jpeg(data, side, **limits)
    return decode_image.decode_pixels(image.jpeg)


def exact(data: bytes, side: int) -> np.ndarray:
    return decode_image.decode_square(data, side, min_size=1, max_pixels=LIMITS.max_image_pixels)


def survey(files: Sequence[ImageFile], cut: Cut = ingested) -> Survey:
    """Decodes every image once: which are good, and why the others are not. Raises InputError where none is."""
    result, digest = Survey(), hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        checked = tqdm(pool.map(partial(_check, cut=cut), files), total=len(files), desc="looking", unit="image")
        for file, (sha256, cause) in zip(files, checked, strict=True):
            if cause:
                result.refused[cause] += 1
                continue
            result.files.append(file)
            digest.update(f"{file.name} {sha256}\n".encode())
    result.sha256 = digest.hexdigest()
    if not result.files:
        raise InputError(f"none of {len(files)} images can be used: {dict(result.refused)}")
    return result


def _check(file: ImageFile, cut: Cut) -> tuple[str, str | None]:
    data = file.read()
    try:
        cut(data, LIMITS.image_size)
    except ImageError as error:
        return "", error.reason
    return hashlib.sha256(data).hexdigest(), None


def batches(files: Sequence[ImageFile], side: int, batch_size: int, cut: Cut = ingested) -> Iterator[Tensor]:
    """uint8 (B, 3, H, W), in order."""
    with ThreadPoolExecutor() as pool:  # Pillow leaves Python's lock while it decodes and resizes
        for start in range(0, len(files), batch_size):
            part = files[start : start + batch_size]
            squares = list(pool.map(lambda file: cut(file.read(), side), part))  #      B x (H, W, 3)
            yield torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()
