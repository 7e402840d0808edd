"""The captions of an evaluation and the seeds of their images. The list is written next to the results, for reuse."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from emage.config.fields import MAX_INTEGER
from emage.evaluation import caption_files
from emage.evaluation.caption_files import CaptionRow
from emage.utils import manifest
from emage.utils.errors import InputError

NAME = "captions.parquet"
_HALF_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can name one; no file can hold it


@dataclass(frozen=True)
class ListedCaption:
    """A caption and its id, which names its images and determines their seeds.

    `image` is the file name of the real image that it describes; None: unknown.
    """

    id: int
    caption: str
    image: str | None = None

    def seed(self, run_seed: int) -> int:
        """Return the seed of the first candidate; those of the other candidates are derived from it."""
        return int(np.random.SeedSequence([run_seed, self.id]).generate_state(1, np.uint64)[0] >> 1)


def read(path: str, limit: int, seed: int) -> list[ListedCaption]:
    """Read captions and, if there are more than `limit`, select as many at random; return them sorted by id.

    COCO has five captions per image: one of each image is selected before a second one of any (paper, Sec. 4: 30k
    images). COCO's json names the image of each caption; in a table the column `image` may.

    Args:
        path: parquet, csv, tsv or jsonl with a column `caption`, COCO's caption json, or .txt with one caption per
            line. Ids are those of COCO's annotations or of a column `id` of whole numbers, otherwise row numbers.
            A number is a caption, as it is written.
        limit: The largest number of captions.
        seed: Seed of the random selection.

    Raises:
        InputError: The file cannot be read, holds no captions, or its ids are not unique.
    """
    rows = caption_files.read_rows(Path(path))
    rows = [row._replace(caption=row.caption.strip()) for row in rows if row.caption and row.caption.strip()]
    if not rows:
        raise InputError(f"{path}: no captions in it")
    ids = {row.id for row in rows}
    if len(ids) < len(rows) or min(ids) < 0 or max(ids) > MAX_INTEGER:
        raise InputError(f"{path}: ids name images: each must be unique and 0 or more; or leave the column `id` out")
    if broken := next((row for row in rows if _HALF_SURROGATE.search(f"{row.caption}{row.image}")), None):
        raise InputError(f"{path}: the caption with the id {broken.id} has half of a surrogate pair: it is no text")
    if len(rows) > limit:
        rows = _select(rows, limit, seed)
    return sorted((ListedCaption(row.id, row.caption or "", row.image) for row in rows), key=lambda listed: listed.id)


def _select(rows: Sequence[CaptionRow], limit: int, seed: int) -> list[CaptionRow]:
    """Return rows in random order, the first caption of every image before all others."""
    shuffled = random.Random(seed).sample(rows, len(rows))
    seen: set[Any] = set()
    # `add` returns None, so only the first caption of an image is True.
    is_first = [row.image is None or (row.image not in seen and not seen.add(row.image)) for row in shuffled]
    firsts = [row for row, first in zip(shuffled, is_first, strict=True) if first]
    others = [row for row, first in zip(shuffled, is_first, strict=True) if not first]
    return (firsts + others)[:limit]


def write(path: str | Path, captions: Sequence[ListedCaption]) -> None:
    """Write the list as parquet, which `read` accepts."""
    columns: dict[str, list[Any]] = {
        caption_files.ID: [listed.id for listed in captions],
        caption_files.CAPTION: [listed.caption for listed in captions],
    }
    if any(listed.image for listed in captions):
        columns[caption_files.IMAGE] = [listed.image for listed in captions]
    with manifest.new_file(path) as fresh:
        pyarrow.parquet.write_table(pa.table(columns), fresh)


def fingerprint(captions: Sequence[ListedCaption]) -> str:
    """Return a sha256 of ids and captions in their order; it does not depend on the file format."""
    return manifest.fingerprint([[listed.id, listed.caption] for listed in captions])
