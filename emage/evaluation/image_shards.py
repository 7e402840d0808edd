"""Shards of an evaluation: generated images for some captions each, and the outputs of the scorers for them.

output/pictures/000000.tar     the best candidate of each caption, ID.png with ID.txt: a WebDataset
output/first/000000.tar        the first candidate of each caption, unranked; only if there are several candidates
output/shards/000000.json      the shard's manifest: scores of all candidates, sha256 of the files. Written last
output/judged/NAME/KIND/000000.safetensors    a scorer's outputs, one row per image; NAME identifies it and its weights

Letters: B images of a shard, N images in all, D numbers per image.
"""

import io
import tarfile
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emage.evaluation.caption_list import ListedCaption
from emage.utils import manifest

IMAGES_PER_SHARD = 256  # candidates included: this much is generated again if an actor fails
BEST, FIRST = "pictures", "first"  # the two kinds of images that are stored; folders of the output


class Shard(NamedTuple):
    """A part of the caption list, whose images are stored in one .tar; `index` is its number in file names."""

    index: int
    captions: tuple[ListedCaption, ...]


@dataclass(frozen=True)
class CandidateImages:
    """The candidate images of one caption, and the ranker's scores: higher is better; all equal without a ranker."""

    listed: ListedCaption
    images: list[Image.Image]
    scores: list[float]

    @property
    def best(self) -> int:
        """Index of the best candidate."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)


def split(captions: Sequence[ListedCaption], candidates: int) -> list[Shard]:
    """Split the captions into shards of about IMAGES_PER_SHARD images."""
    size = max(1, IMAGES_PER_SHARD // candidates)
    starts = range(0, len(captions), size)
    return [Shard(i, tuple(captions[start : start + size])) for i, start in enumerate(starts)]


def kinds(candidates: int) -> tuple[str, ...]:
    """Return the kinds of images that are stored for this number of candidates."""
    return (BEST, FIRST) if candidates > 1 else (BEST,)


# --- Images -----------------------------------------------------------------------------------------------------------


def write(
    output: Path, index: int, groups: Sequence[CandidateImages], candidates: int, made_by: dict[str, str]
) -> None:
    """Write the .tar files of a shard and, last, its manifest. Equal images make equal bytes.

    Args:
        output: Folder of the evaluation.
        index: Number of the shard.
        groups: The candidates of each caption of the shard.
        candidates: Number of candidates per caption.
        made_by: Versions and device that generated the images.
    """
    files = {}
    for kind in kinds(candidates):
        path = _tar(output, kind, index)
        path.parent.mkdir(exist_ok=True)
        with manifest.new_file(path) as fresh, tarfile.open(fresh, "w") as archive:
            for group in groups:
                image = group.images[group.best if kind == BEST else 0]
                _add(archive, f"{group.listed.id:012d}.png", _png(image))
                _add(archive, f"{group.listed.id:012d}.txt", group.listed.caption.encode())
        files[kind] = {"bytes": path.stat().st_size, "sha256": manifest.sha256(path)}
    rows = [{"id": group.listed.id, "best": group.best, "scores": group.scores} for group in groups]
    _manifest(output, index).parent.mkdir(exist_ok=True)
    manifest.write_json(_manifest(output, index), {"rows": rows, "files": files, "made_by": made_by})


def is_written(output: Path, index: int) -> bool:
    """Return whether the shard is complete: its manifest exists, and its files have the recorded content.

    A damaged shard is not: it is generated again.
    """
    record = manifest.read_json(_manifest(output, index))
    return record is not None and all(
        _tar(output, kind, index).is_file()
        and _tar(output, kind, index).stat().st_size == file["bytes"]
        and manifest.sha256(_tar(output, kind, index)) == file["sha256"]
        for kind, file in record["files"].items()
    )


def best_scores(output: Path, shards: Sequence[Shard]) -> list[float]:
    """Return the ranker's score of every best candidate, in the order of the captions."""
    rows = (row for shard in shards for row in manifest.read_json(_manifest(output, shard.index))["rows"])
    return [row["scores"][row["best"]] for row in rows]


def generated_by(output: Path, shards: Sequence[Shard]) -> list[dict[str, str]]:
    """Return the distinct `made_by` of the shards: several if the work was resumed on another machine."""
    found = [manifest.read_json(_manifest(output, shard.index))["made_by"] for shard in shards]
    return [made_by for i, made_by in enumerate(found) if made_by not in found[:i]]


def images(
    output: Path, kind: str, shards: Sequence[Shard], wanted: Container[int] | None = None
) -> Iterator[Image.Image]:
    """Yield the images of one kind in the order of the captions: all, or those with an index in `wanted`."""
    index = 0
    for shard in shards:
        with tarfile.open(_tar(output, kind, shard.index)) as archive:
            for member in (member for member in archive if member.name.endswith(".png")):
                if wanted is None or index in wanted:
                    file: Any = archive.extractfile(member)
                    yield Image.open(io.BytesIO(file.read())).convert("RGB")
                index += 1


# --- Outputs of the scorers -------------------------------------------------------------------------------------------


def write_scorer_rows(output: Path, name: str, kind: str, index: int, rows: Tensor) -> None:
    """Write a scorer's outputs (B, D) for the images of a shard."""
    path = _scorer_file(output, name, kind, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    with manifest.new_file(path) as fresh:
        save_file({"rows": rows.contiguous()}, fresh, {"of": _sha256(output, kind, index)})


def is_scored(output: Path, name: str, kind: str, index: int) -> bool:
    """Return whether the outputs exist and belong to the images that the shard has now."""
    try:
        with safe_open(_scorer_file(output, name, kind, index), "pt") as file:
            return file.metadata()["of"] == _sha256(output, kind, index)
    except (FileNotFoundError, SafetensorError):
        return False


def read_scorer_rows(output: Path, name: str, kind: str, shards: Sequence[Shard]) -> Tensor:
    """Return a scorer's outputs (N, D) for all shards, in the order of the captions."""
    rows = []
    for shard in shards:
        with safe_open(_scorer_file(output, name, kind, shard.index), "pt") as file:
            rows.append(file.get_tensor("rows"))
    return torch.cat(rows)


# --- Files ------------------------------------------------------------------------------------------------------------


def _tar(output: Path, kind: str, index: int) -> Path:
    return output / kind / f"{index:06d}.tar"


def _manifest(output: Path, index: int) -> Path:
    return output / "shards" / f"{index:06d}.json"


def _scorer_file(output: Path, name: str, kind: str, index: int) -> Path:
    return output / "judged" / name / kind / f"{index:06d}.safetensors"


def _sha256(output: Path, kind: str, index: int) -> str:
    return manifest.read_json(_manifest(output, index))["files"][kind]["sha256"]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # date 1970 and no owner, so that the bytes do not depend on time and machine
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
