"""The images of an evaluation, some captions a shard, and what networks say of them.

output/pictures/000000.tar     the best candidate of every caption, ID.png beside ID.txt: a WebDataset
output/first/000000.tar        the first candidate, which nothing chose; only where there are several
output/shards/000000.json      the shard's manifest: scores of all candidates, sha256 of the files. Written last
output/judged/NAME/KIND/000000.safetensors    one row of numbers an image, by a network; NAME names it and its weights
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

from emage.evaluation.caption_list import Task
from emage.utils import manifest

IMAGES = 256  # of a shard, all candidates counted: what is drawn again when an actor is lost
BEST, FIRST = "pictures", "first"  # the two kinds that are kept; folders of the output


class Shard(NamedTuple):
    index: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Drawn:
    """The candidates of one caption."""

    task: Task
    images: list[Image.Image]
    scores: list[float]  # the ranker's, higher is better; all equal where nothing ranks

    @property
    def best(self) -> int:
        return max(range(len(self.scores)), key=self.scores.__getitem__)


def split(tasks: Sequence[Task], candidates: int) -> list[Shard]:
    """The work in parts of about IMAGES images."""
    size = max(1, IMAGES // candidates)
    return [Shard(i, tuple(tasks[start : start + size])) for i, start in enumerate(range(0, len(tasks), size))]


def kinds(candidates: int) -> tuple[str, ...]:
    return (BEST, FIRST) if candidates > 1 else (BEST,)


# --- Images ---------------------------------------------------------------------------------------------------------


def write(output: Path, index: int, drawn: Sequence[Drawn], candidates: int, made_by: dict[str, str]) -> None:
    """The .tar files and, last, the manifest. `made_by`: what drew them. Equal images make equal bytes."""
    files = {}
    for kind in kinds(candidates):
        path = _tar(output, kind, index)
        path.parent.mkdir(exist_ok=True)
        with manifest.new_file(path) as fresh, tarfile.open(fresh, "w") as archive:
            for one in drawn:
                image = one.images[one.best if kind == BEST else 0]
                _add(archive, f"{one.task.id:012d}.png", _png(image))
                _add(archive, f"{one.task.id:012d}.txt", one.task.caption.encode())
        files[kind] = {"bytes": path.stat().st_size, "sha256": manifest.sha256(path)}
    rows = [{"id": one.task.id, "best": one.best, "scores": one.scores} for one in drawn]
    _manifest(output, index).parent.mkdir(exist_ok=True)
    manifest.write_json(_manifest(output, index), {"rows": rows, "files": files, "made_by": made_by})


def is_done(output: Path, index: int) -> bool:
    """Whether a shard is there, its files as long as they were."""
    record = manifest.read_json(_manifest(output, index))
    return record is not None and all(
        _tar(output, kind, index).is_file() and _tar(output, kind, index).stat().st_size == file["bytes"]
        for kind, file in record["files"].items()
    )


def best_scores(output: Path, shards: Sequence[Shard]) -> list[float]:
    """The ranker's score of every kept image, in the captions' order."""
    rows = (row for shard in shards for row in manifest.read_json(_manifest(output, shard.index))["rows"])
    return [row["scores"][row["best"]] for row in rows]


def makers(output: Path, shards: Sequence[Shard]) -> list[dict[str, str]]:
    """What drew the images: one entry, or several where the work was stopped and gone on with elsewhere."""
    found = [manifest.read_json(_manifest(output, shard.index))["made_by"] for shard in shards]
    return [maker for i, maker in enumerate(found) if maker not in found[:i]]


def images(
    output: Path, kind: str, shards: Sequence[Shard], wanted: Container[int] | None = None
) -> Iterator[Image.Image]:
    """The images of one kind, in the captions' order: all, or those at the places `wanted`."""
    place = 0
    for shard in shards:
        with tarfile.open(_tar(output, kind, shard.index)) as archive:
            for member in (member for member in archive if member.name.endswith(".png")):
                if wanted is None or place in wanted:
                    file: Any = archive.extractfile(member)
                    yield Image.open(io.BytesIO(file.read())).convert("RGB")
                place += 1


# --- What was measured of them ----------------------------------------------------------------------------------------


def write_judged(output: Path, name: str, kind: str, index: int, rows: Tensor) -> None:
    """`rows`: (B, D), one an image of the shard."""
    path = _judged(output, name, kind, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    with manifest.new_file(path) as fresh:
        save_file({"rows": rows.contiguous()}, fresh, {"of": _sha256(output, kind, index)})


def is_judged(output: Path, name: str, kind: str, index: int) -> bool:
    """Whether the numbers are there, and are of the images that are there now."""
    try:
        with safe_open(_judged(output, name, kind, index), "pt") as file:
            return file.metadata()["of"] == _sha256(output, kind, index)
    except (FileNotFoundError, SafetensorError):
        return False


def judged(output: Path, name: str, kind: str, shards: Sequence[Shard]) -> Tensor:
    """(N, D), in the captions' order."""
    parts = []
    for shard in shards:
        with safe_open(_judged(output, name, kind, shard.index), "pt") as file:
            parts.append(file.get_tensor("rows"))
    return torch.cat(parts)


# --- Parts ------------------------------------------------------------------------------------------------------------


def _tar(output: Path, kind: str, index: int) -> Path:
    return output / kind / f"{index:06d}.tar"


def _manifest(output: Path, index: int) -> Path:
    return output / "shards" / f"{index:06d}.json"


def _judged(output: Path, name: str, kind: str, index: int) -> Path:
    return output / "judged" / name / kind / f"{index:06d}.safetensors"


def _sha256(output: Path, kind: str, index: int) -> str:
    return manifest.read_json(_manifest(output, index))["files"][kind]["sha256"]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # of 1970, nobody's: what the bytes are does not depend on when and where
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
