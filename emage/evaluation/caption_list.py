"""The captions of an evaluation and the seeds of their images. The list is written next to the results, for reuse."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from emage.utils import manifest
from emage.utils.errors import InputError

NAME = "captions.parquet"

_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": pyarrow.parquet.read_table,
    ".csv": pyarrow.csv.read_csv,
    ".tsv": lambda file: pyarrow.csv.read_csv(file, parse_options=pyarrow.csv.ParseOptions(delimiter="\t")),
    ".jsonl": pyarrow.json.read_json,
}


@dataclass(frozen=True)
class ListedCaption:
    """A caption and its id, which names its images and determines their seeds."""

    id: int
    caption: str

    def seed(self, run_seed: int) -> int:
        """Return the seed of the first candidate; those of the other candidates are derived from it."""
        return int(np.random.SeedSequence([run_seed, self.id]).generate_state(1, np.uint64)[0] >> 1)


def read(path: str, limit: int, seed: int) -> list[ListedCaption]:
    """Read captions and, if there are more than `limit`, select as many at random; return them sorted by id.

    COCO has five captions per image: one of each image is selected before a second one of any (paper, Sec. 4: 30k
    images).

    Args:
        path: parquet, csv, tsv or jsonl with a column `caption`, COCO's caption json, or .txt with one caption per
            line. Ids are those of COCO's annotations or of a column `id` of whole numbers, otherwise row numbers.
        limit: The largest number of captions.
        seed: Seed of the random selection.

    Raises:
        InputError: The file cannot be read, holds no captions, or its ids are not unique.
    """
    rows = _read(Path(path))
    if any(not isinstance(row.caption, str | None) for row in rows):
        raise InputError(f"{path}: `caption` has values that are not text")
    rows = [row for row in rows if row.caption and row.caption.strip()]
    if not rows:
        raise InputError(f"{path}: no captions in it")
    if len({row.id for row in rows}) < len(rows) or min(row.id for row in rows) < 0:
        raise InputError(f"{path}: ids name images: each must be unique and 0 or more; or leave the column `id` out")
    if len(rows) > limit:
        rows = _select(rows, limit, seed)
    return sorted((ListedCaption(row.id, row.caption.strip()) for row in rows), key=lambda listed: listed.id)


def _select(rows: Sequence["_Row"], limit: int, seed: int) -> list["_Row"]:
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
    columns = {"id": [listed.id for listed in captions], "caption": [listed.caption for listed in captions]}
    with manifest.new_file(path) as fresh:
        pyarrow.parquet.write_table(pa.table(columns), fresh)


def fingerprint(captions: Sequence[ListedCaption]) -> str:
    """Return a sha256 of ids and captions in their order; it does not depend on the file format."""
    return manifest.fingerprint([[listed.id, listed.caption] for listed in captions])


class _Row(NamedTuple):
    id: int
    caption: Any  # checked later: a file may hold anything
    image: Any = None  # COCO's image id


def _read(path: Path) -> list[_Row]:
    if not path.is_file():
        raise InputError(f"{path}: no such caption file")
    try:
        if path.suffix == ".txt":
            return [_Row(i, line) for i, line in enumerate(path.read_text().splitlines())]
        if path.suffix == ".json":
            return _coco(json.loads(path.read_text())["annotations"])
        if path.suffix not in _READERS:
            raise InputError(f"{path}: captions must be parquet, csv, tsv, jsonl, COCO json or txt")
        table = _READERS[path.suffix](path)
    except InputError:
        raise
    except (pa.ArrowInvalid, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: unreadable caption file ({(str(error) or repr(error)).splitlines()[0]})") from None
    if "caption" not in table.column_names:
        raise InputError(f"{path}: no column `caption` (it has {', '.join(table.column_names)})")
    has_ids = "id" in table.column_names and pa.types.is_integer(table.schema.field("id").type)
    ids = table["id"].to_pylist() if has_ids and not table["id"].null_count else range(table.num_rows)
    return [_Row(i, caption) for i, caption in zip(ids, table["caption"].to_pylist(), strict=True)]


def _coco(annotations: list[dict[str, Any]]) -> list[_Row]:
    has_ids = all(isinstance(row.get("id"), int) for row in annotations)
    return [_Row(row["id"] if has_ids else i, row["caption"], row.get("image_id")) for i, row in enumerate(annotations)]
