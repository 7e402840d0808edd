"""Images on disk as squares: the files of a folder, however deep, the members of .tar archives, rows of parquet files.

There are two ways to crop, for `check_images` and `batches`: `crop_as_ingest`, as ingest crops what it downloads, so
that a tokenizer gets the same images here and there; `crop_exactly`, the same square without the compression and the
faster decoding of ingest, for metrics.

Letters: B batch, H = W side.
"""

import hashlib
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from emage.config import DownloadConfig
from emage.data.images import decode_image, parquet_images
from emage.data.images.decode_image import ImageError
from emage.data.images.file_kinds import ENDINGS
from emage.utils.errors import InputError

INGEST_LIMITS = DownloadConfig()  # sizes that ingest rejects

Crop = Callable[[bytes, int], np.ndarray]  # (bytes of a file, side) -> uint8 (H, W, 3); raises ImageError


@dataclass(frozen=True)
class ImageFile:
    """An image file, a member of a .tar archive, or a row of a parquet file.

    `name` is the path below the folder; the name of a member or the number of a row is appended to that of its file.
    `offset` and `size` are the position of its bytes in `path`; a size of -1 means up to the end. `row`: row group and
    index in it, of a parquet file.
    """

    name: str
    path: Path
    offset: int = 0
    size: int = -1
    row: tuple[int, int] | None = None

    def read(self) -> bytes:
        """Return the bytes of the image file."""
        if self.row is not None:
            return parquet_images.read(self.path, *self.row)
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class FoundImages(NamedTuple):
    """The images of a folder, and how many other files were left out, by the ending of the name or another reason."""

    files: list[ImageFile]
    left_out: Counter[str]


@dataclass
class UsableImages:
    """The images of a folder that can be decoded.

    `rejected` counts the others by reason, `left_out` the files that are no images by their names. `sha256` is a hash
    of the names and contents of `files`.
    """

    files: list[ImageFile] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    sha256: str = ""

    def summary(self) -> str:
        """Return one line: how many images are used, and how many are not, with the reasons."""
        text = f"{len(self.files)} images"
        if self.rejected:
            text += f"; {self.rejected.total()} cannot be used ({_counts(self.rejected)})"
        if self.left_out:
            text += f"; {self.left_out.total()} other files left out ({_counts(self.left_out)})"
        return text


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counter.most_common(8))


def find(path: str) -> FoundImages:
    """Return the images of a folder, .tar or .parquet, sorted by name. Links are followed, hidden files are left out.

    Raises:
        InputError: The path does not exist, cannot be read, or holds no images.
    """
    root, left_out = Path(path), Counter[str]()
    if not root.exists():
        raise InputError(f"{path}: no such folder or .tar or .parquet of images")
    paths = sorted(_files_below(root, left_out)) if root.is_dir() else [root]
    found = [image for file in paths for image in _images_of(file, root, left_out)]
    if not found:
        others = f"; it has other files: {_counts(left_out)}" if left_out else ""
        wanted = f"{', '.join(ENDINGS)}, .tar archives of them, or .parquet with a column {parquet_images.COLUMN!r}"
        raise InputError(f"{path}: no images in it ({wanted}){others}")
    return FoundImages(found, left_out)


def _files_below(root: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, those behind links too, each folder once."""

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename}: {error.strerror}")

    seen = {root.resolve()}
    for folder, subfolders, names in os.walk(root, onerror=fail, followlinks=True):
        for name in list(subfolders):
            target = (Path(folder) / name).resolve()
            if target in seen or name.startswith("."):
                subfolders.remove(name)
                left_out["a hidden folder" if name.startswith(".") else "a folder twice, by a link"] += 1
            seen.add(target)
        for name in names:
            file = Path(folder) / name
            if name.startswith("."):
                left_out["hidden"] += 1
            elif not file.is_file():
                left_out["a link to nothing" if file.is_symlink() else "no regular file"] += 1
            else:
                yield file


def _images_of(path: Path, root: Path, left_out: Counter[str]) -> list[ImageFile]:
    name = path.relative_to(root).as_posix() if root.is_dir() else path.name
    if path.suffix.lower() in ENDINGS:
        return [ImageFile(name, path)]
    if path.suffix.lower() == ".parquet" and (rows := parquet_images.rows(path)) is not None:
        return [ImageFile(f"{name}/{i:09d}", path, row=row) for i, row in enumerate(rows)]
    if path.suffix.lower() != ".tar":
        left_out[_ending(path.name)] += 1
        return []
    members = []
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                is_image = member.isfile() and member.name.lower().endswith(ENDINGS)
                if is_image and not Path(member.name).name.startswith("."):
                    members.append(member)
                elif not member.isdir():
                    left_out[_ending(member.name) if member.isfile() else "a link in an archive"] += 1
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path}: unreadable archive ({error})") from None
    members.sort(key=lambda member: member.name)
    return [ImageFile(f"{name}/{m.name}", path, m.offset_data, m.size) for m in members]


def _ending(name: str) -> str:
    base = name.rpartition("/")[2]
    return "hidden" if base.startswith(".") else Path(base).suffix.lower() or "without an ending"


def crop_as_ingest(data: bytes, side: int) -> np.ndarray:
    """Return the pixels (H, W, 3) that ingest would keep, after its JPEG compression."""
    limits = {"min_size": INGEST_LIMITS.min_image_size, "max_pixels": INGEST_LIMITS.max_image_pixels}
    image = decode_image.make_square_jpeg(data, side, **limits)
    return decode_image.decode_pixels(image.jpeg)


def crop_exactly(data: bytes, side: int) -> np.ndarray:
    """Return the pixels (H, W, 3) of the same square, without compression."""
    return decode_image.decode_square(data, side, min_size=1, max_pixels=INGEST_LIMITS.max_image_pixels)


def check_images(found: FoundImages, crop: Crop = crop_as_ingest) -> UsableImages:
    """Decode every image once; return the usable ones and the reasons for which the others are rejected.

    Raises:
        InputError: None of the images can be used.
    """
    files, result, digest = found.files, UsableImages(left_out=found.left_out), hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        checked = tqdm(pool.map(partial(_check, crop=crop), files), total=len(files), desc="checking", unit="image")
        for file, (sha256, reason) in zip(files, checked, strict=True):
            if reason:
                result.rejected[reason] += 1
                continue
            result.files.append(file)
            digest.update(f"{file.name} {sha256}\n".encode())
    result.sha256 = digest.hexdigest()
    if not result.files:
        raise InputError(f"none of {len(files)} images can be used: {dict(result.rejected)}")
    return result


def _check(file: ImageFile, crop: Crop) -> tuple[str, str | None]:
    """Return the sha256 of a usable image and None, or "" and the reason for which it is rejected."""
    try:
        data = file.read()
        crop(data, INGEST_LIMITS.image_size)
    except ImageError as error:
        return "", error.reason
    except OSError:
        return "", "unreadable_file"
    return hashlib.sha256(data).hexdigest(), None


def batches(files: Sequence[ImageFile], side: int, batch_size: int, crop: Crop = crop_as_ingest) -> Iterator[Tensor]:
    """Yield the images in batches, uint8 (B, 3, H, W), in the order of the files."""
    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL while it decodes and resizes
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            squares = list(pool.map(lambda file: crop(file.read(), side), batch))  #      B x (H, W, 3)
            yield torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()
