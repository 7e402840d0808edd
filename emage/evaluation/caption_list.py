"""Which captions an evaluation draws, and their seeds. The list is kept with the result and can be given again."""

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
class Task:
    """One caption to draw."""

    id: int  # names its images and seeds them
    caption: str

    def seed(self, run_seed: int) -> int:
        """Of its first candidate; those of the others follow from it."""
        return int(np.random.SeedSequence([run_seed, self.id]).generate_state(1, np.uint64)[0] >> 1)


def read(path: str, limit: int, seed: int) -> list[Task]:
    """`limit` captions drawn at random by `seed`, by id; all of them where there are fewer.

    Reads parquet, csv, tsv and jsonl (column `caption`), COCO's caption json, and .txt with one caption a line. Ids
    are those of COCO's annotations or of a column `id` of whole numbers, such as a kept list has; else row numbers.
    COCO has five captions an image: one of each image is drawn before a second one of any (Sec. 4: 30k images).
    Raises InputError.
    """
    rows = _read(Path(path))
    if any(not isinstance(row.caption, str | None) for row in rows):
        raise InputError(f"{path}: `caption` holds other things than text")
    rows = [row for row in rows if row.caption and row.caption.strip()]
    if not rows:
        raise InputError(f"{path}: no captions in it")
    if len({row.id for row in rows}) < len(rows) or min(row.id for row in rows) < 0:
        raise InputError(f"{path}: ids name images: each stands once and is 0 or more; or leave the column `id` out")
    if len(rows) > limit:
        rows = _drawn(rows, limit, seed)
    return sorted((Task(row.id, row.caption.strip()) for row in rows), key=lambda task: task.id)


def _drawn(rows: Sequence["_Row"], limit: int, seed: int) -> list["_Row"]:
    """In random order, the first caption of every image before all others."""
    shuffled = random.Random(seed).sample(rows, len(rows))
    seen: set[Any] = set()
    # `add` says nothing: an image is new once.
    is_first = [row.image is None or (row.image not in seen and not seen.add(row.image)) for row in shuffled]
    firsts = [row for row, first in zip(shuffled, is_first, strict=True) if first]
    others = [row for row, first in zip(shuffled, is_first, strict=True) if not first]
    return (firsts + others)[:limit]


def write(path: str | Path, tasks: Sequence[Task]) -> None:
    """The list as parquet, which `read` takes as it is."""
    columns = {"id": [task.id for task in tasks], "caption": [task.caption for task in tasks]}
    with manifest.new_file(path) as fresh:
        pyarrow.parquet.write_table(pa.table(columns), fresh)


def fingerprint(tasks: Sequence[Task]) -> str:
    """sha256 of the ids and captions in their order, whatever file they came from."""
    return manifest.fingerprint([[task.id, task.caption] for task in tasks])


class _Row(NamedTuple):
    id: int
    caption: Any  # a file may hold anything
    image: Any = None  # of COCO: which image it is of


def _read(path: Path) -> list[_Row]:
    if not path.is_file():
        raise InputError(f"{path}: no such caption file")
    try:
        if path.suffix == ".txt":
            return [_Row(i, line) for i, line in enumerate(path.read_text().splitlines())]
        if path.suffix == ".json":
            return _coco(json.loads(path.read_text())["annotations"])
        if path.suffix not in _READERS:
            raise InputError(f"{path}: captions come as parquet, csv, tsv, jsonl, COCO json or txt")
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
