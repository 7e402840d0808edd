"""The Ray tasks of the select stage: parts of URL tables -> sorted runs -> shards of URLs. See select_urls.py."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from emage.config import SourceConfig
from emage.data import schema
from emage.data.ingest import url_filter, url_table
from emage.data.ingest.sources import kinds
from emage.on_ray.ingest import sorted_runs
from emage.utils import manifest

TABLE_ORDER = pa.field("place", pa.int64())  # a row's position in all tables: part << PART_SHIFT | row
PART_SHIFT = 40
RUN_BYTES = 128 << 20  # of URLs and captions in a sorted run, which may then have fewer rows than planned
TASK_BYTES = 512 << 20  # of URLs and captions in the shards that one task writes
RUN_SCHEMA = pa.schema([*schema.URL_SCHEMA, TABLE_ORDER])


@dataclass(frozen=True)
class SelectPlan:
    """The sizes of sorted runs and shards, and the paths in the work folder."""

    folder: str  # of the sorted runs, and of the shards until all are written
    shard_rows: int  # per shard, on average
    run_rows: int  # per sorted run, at least
    num_rows: int = 0  # after the filters, duplicates included; 0 until all parts are read
    num_bytes: int = 0  # of their URLs and captions
    num_runs: tuple[int, ...] = ()  # sorted runs of each part

    @property
    def num_shards(self) -> int:
        """Return the number of shards of URLs."""
        return max(1, -(-self.num_rows // self.shard_rows))

    def shards_per_task(self, task_rows: int) -> int:
        """Return how many shards one task writes: of at most `task_rows` rows and TASK_BYTES, but at least one."""
        by_bytes = TASK_BYTES * self.num_shards // max(1, self.num_bytes)
        return max(1, min(task_rows // self.shard_rows, by_bytes))

    @property
    def urls_folder(self) -> Path:
        """Return the folder in which the shards are written."""
        return Path(self.folder) / "urls"

    @property
    def run_paths(self) -> list[Path]:
        """Return the paths of the sorted runs of all parts."""
        return [self.run_path(part, run) for part, count in enumerate(self.num_runs) for run in range(count)]

    def run_path(self, part: int, number: int) -> Path:
        """Return the path of a part's sorted run."""
        return Path(self.folder) / f"part-{part:05d}-run-{number:05d}"

    def counts_path(self, part: int) -> Path:
        """Return the file with a part's counters, which is written when the part is finished."""
        return Path(self.folder) / f"part-{part:05d}.json"

    def counts_of_shards_path(self, first: int) -> Path:
        """Return the file with the counters of one task's shards, which is written when they are finished."""
        return Path(self.folder) / f"shards-{first:05d}.json"


# Before them: what the tables' files hold


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def survey_file(number: int, table: SourceConfig, file: str) -> tuple[int, dict[str, Any]]:
    """Return `number`, and what kinds.survey returns for a file."""
    return number, kinds.survey(table, file)


# Steps 1 and 2: parts of tables -> sorted runs


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def read_part(
    plan: SelectPlan, number: int, table: SourceConfig, part: url_table.TablePart, blocked: url_filter.BlockLists
) -> dict[str, Any]:
    """Write the sorted runs of one part. Return the counters of its rows."""
    if written := manifest.read_json(plan.counts_path(number)):
        return written
    filtered, dropped, entries = Counter[str](), Counter[str](), Counter[str]()
    counts: dict[str, Any] = {"part": number, "dataset": table.dataset, "file": part.name}
    counts |= dict.fromkeys(("rows", "kept", "bytes", "runs"), 0)
    run = _SortedRun()
    for batch in kinds.read(table, part, dropped, entries):
        kept = _filter(table, blocked, batch, filtered)
        positions = pa.array(np.flatnonzero(kept) + (counts["rows"] + (number << PART_SHIFT)))
        rows = batch.filter(pa.array(kept))
        hashes = _hash_rows(table.dataset, rows)
        names = pa.array([table.dataset] * len(rows), pa.string())
        addresses = rows["address"] if "address" in rows.schema.names else pa.nulls(len(rows), pa.string())
        columns = [rows["url"], rows["caption"], names, addresses, positions]
        num_bytes = sum(column.nbytes for column in (rows["url"], rows["caption"], addresses))
        run.add(pa.table(columns, schema=RUN_SCHEMA), hashes, num_bytes)
        counts["rows"] += len(batch)
        counts["kept"] += len(rows)
        counts["bytes"] += num_bytes
        if run.num_rows >= plan.run_rows or run.num_bytes >= RUN_BYTES:
            filtered["duplicate"] += run.write(plan.run_path(number, counts["runs"]))
            counts["runs"] += 1
            run = _SortedRun()
    if run.num_rows:
        filtered["duplicate"] += run.write(plan.run_path(number, counts["runs"]))
        counts["runs"] += 1
    counts["rows"] += dropped.total()
    counts["entries"] = entries.total()
    counts["filtered"] = dict(filtered + dropped)
    manifest.write_json(plan.counts_path(number), counts)
    return counts


def _filter(
    table: SourceConfig, blocked: url_filter.BlockLists, batch: pa.RecordBatch, filtered: Counter[str]
) -> np.ndarray:
    """Return one boolean per row: True if it is kept. Count a dropped row in `filtered` under its first drop reason."""
    kept = np.ones(len(batch), bool)
    for condition in url_table.parse_conditions(table):
        fails = ~condition.holds(batch[url_table.METADATA_PREFIX + condition.column]).to_numpy(zero_copy_only=False)
        filtered[condition.text] += int((kept & fails).sum())
        kept &= ~fails
    md5 = batch[url_table.METADATA_PREFIX + table.md5].cast(pa.string()) if table.md5 else None
    for reason, fails in blocked.match(batch["url"], md5):
        filtered[reason] += int((kept & fails).sum())
        kept &= ~fails
    return kept


def _hash_rows(dataset: str, rows: pa.RecordBatch) -> np.ndarray:
    """Return (n,) uint64, a hash of (url, caption) or, for stored images, of (data set, group)."""
    if "group" in rows.schema.names:
        one, other = url_filter.hash_texts(rows["group"]), url_filter.hash_texts(pa.array([dataset]))
    else:
        one, other = url_filter.hash_texts(rows["url"]), url_filter.hash_texts(rows["caption"])
    return sorted_runs.mix(one ^ sorted_runs.mix(other))


class _SortedRun:
    """The rows of a sorted run that is not written yet."""

    def __init__(self) -> None:
        self.tables: list[pa.Table] = []
        self.hashes: list[np.ndarray] = []
        self.num_rows = self.num_bytes = 0

    def add(self, rows: pa.Table, hashes: np.ndarray, num_bytes: int) -> None:
        """Add rows, their hashes and the size of their URLs and captions."""
        self.tables.append(rows)
        self.hashes.append(hashes)
        self.num_rows += len(rows)
        self.num_bytes += num_bytes

    def write(self, path: Path) -> int:
        """Write the rows, each pair once. Return the number of rows that were left out as duplicates.

        Equal pairs all go to the same shard: without this, a table that repeats one pair would make that shard as
        large as the table.
        """
        rows, hashes = sorted_runs.sort(pa.concat_tables(self.tables), np.concatenate(self.hashes), TABLE_ORDER.name)
        is_first = first_of_equal(rows, hashes)
        if not sorted_runs.exists(path):
            sorted_runs.write(path, rows.filter(pa.array(is_first)), hashes[is_first])
        return int((~is_first).sum())


# Step 3: sorted runs -> shards


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def write_shards(plan: SelectPlan, first: int, count: int) -> list[dict[str, Any]]:
    """Write the shards `first` to `first` + `count` - 1, or to the last one. Return the counters of each."""
    if done := manifest.read_json(plan.counts_of_shards_path(first)):
        return done
    last = min(first + count, plan.num_shards)
    rows, hashes = sorted_runs.read_ranges(plan.run_paths, first, last, plan.num_shards, TABLE_ORDER.name)
    bounds = sorted_runs.range_bounds(plan.num_shards)[first:last]
    edges = [*np.searchsorted(hashes, bounds).tolist(), len(rows)]
    is_first = first_of_equal(rows, hashes)
    written = [_write_shard(plan, first + n, rows, is_first, edges[n], edges[n + 1]) for n in range(last - first)]
    manifest.write_json(plan.counts_of_shards_path(first), written)
    return written


def _write_shard(
    plan: SelectPlan, number: int, rows: pa.Table, is_first: np.ndarray, low: int, high: int
) -> dict[str, Any]:
    kept = rows.slice(low, high - low).filter(pa.array(is_first[low:high])).select(schema.URL_SCHEMA.names)
    path = plan.urls_folder / f"{number:05d}.parquet"
    with manifest.new_file(path) as temporary:
        pq.write_table(kept, temporary, compression="zstd")
    return {
        "name": path.name,
        "rows": len(kept),
        "sha256": manifest.sha256(path),
        "duplicates": high - low - len(kept),
        "datasets": dict(Counter(kept["dataset"].to_pylist())),
    }


def first_of_equal(rows: pa.Table, hashes: np.ndarray) -> np.ndarray:
    """Return one boolean per row: False if an earlier row has the same URL and caption.

    Of stored images the same address in the same data set, in place of the same URL: two folders may have files of
    equal names. Equal rows have equal hashes, so they are among neighbours (step 2).
    """
    is_first = np.ones(len(rows), bool)
    same = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    if len(same):
        for group in _consecutive(same):
            neighbours = rows.select(schema.URL_SCHEMA.names).slice(group[0] - 1, len(group) + 1).to_pylist()
            seen: set[tuple[str | None, ...]] = set()
            for index, row in enumerate(neighbours, group[0] - 1):
                address = row["address"]
                place = (row["url"], None) if address is None else (row["dataset"], address)
                is_first[index] = (*place, row["caption"]) not in seen
                seen.add((*place, row["caption"]))
    return is_first


def _consecutive(indexes: np.ndarray) -> Iterator[np.ndarray]:
    """Split ascending indexes into groups of consecutive ones."""
    yield from np.split(indexes, np.flatnonzero(np.diff(indexes) > 1) + 1)
