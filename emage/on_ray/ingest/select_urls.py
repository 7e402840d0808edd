"""URL tables -> shards of URLs: conditions, block-lists, exact duplicates. Knows no network and no image.

    1. Parts of the tables are read by one Ray task each. A row that fails a condition (source.where) or stands on a
       block-list is counted and gone.
    2. The rest is sorted by a hash of (url, caption) and written as runs (emage.on_ray.ingest.sorted_runs).
    3. Each shard is an equal range of hashes, read from all runs. Equal pairs meet there; the first in the order of
       the tables stays.

So no list of all rows is ever needed, a shard is a random sample of all tables (its success rate says something, and
no host is asked for everything at once), and the same tables give the same shards on any number of machines.

    output/urls/NNNNN.parquet      schema.URL
    output/urls/_manifest.json
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from emage.config import SelectConfig, SourceConfig
from emage.data import schema
from emage.data.ingest import url_filter, url_table
from emage.on_ray import tasks
from emage.on_ray.ingest import sorted_runs as runs
from emage.utils import manifest
from emage.utils.errors import InputError

MANIFEST = "_manifest.json"
RUN_ROWS = 500_000  # about 100 MB
TASK_ROWS = 500_000  # of the shards that one task makes
PLACE = pa.field("place", pa.int64())  # order of the tables: part << PLACE_BITS | row
PLACE_BITS = 40
ROWS = pa.schema([*schema.URL, PLACE])


@dataclass(frozen=True)
class Plan:
    folder: str  # runs, and the shards until all are there
    shard_rows: int
    run_rows: int
    num_rows: int = 0  # with duplicates
    num_runs: tuple[int, ...] = ()  # of each part

    @property
    def num_shards(self) -> int:
        return max(1, -(-self.num_rows // self.shard_rows))

    @property
    def urls(self) -> Path:
        return Path(self.folder) / "urls"

    @property
    def runs(self) -> list[Path]:
        return [self.run(part, run) for part, count in enumerate(self.num_runs) for run in range(count)]

    def run(self, part: int, number: int) -> Path:
        return Path(self.folder) / f"part-{part:05d}-run-{number:05d}"

    def counts(self, part: int) -> Path:
        return Path(self.folder) / f"part-{part:05d}.json"

    def shards(self, first: int) -> Path:
        return Path(self.folder) / f"shards-{first:05d}.json"


def run(
    tables: list[SourceConfig],
    config: SelectConfig,
    shard_rows: int,
    *,
    blocked: url_filter.BlockLists,
    work: Path,
    folder: Path,
) -> dict[str, Any]:
    """Write the shards into `folder`. `blocked` are the lists of `config`. Returns the stage's manifest."""
    described = describe(tables, config)
    plan = Plan(
        str(work / manifest.fingerprint([described, list(map(asdict, tables)), shard_rows])[:16]), shard_rows, RUN_ROWS
    )
    plan.urls.mkdir(parents=True, exist_ok=True)
    parts = [(table, part) for table in tables for part in url_table.split(table)]
    shared = ray.put(blocked)
    read: dict[int, dict[str, Any]] = {}
    with tasks.progress_bar("select: read", sum(map(url_table.count_rows, tables)), "rows") as bar:
        calls = (lambda n=n, p=p: _read_part.remote(plan, n, p[0], p[1], shared) for n, p in enumerate(parts))
        for counts in tasks.run(calls, folder.parent):
            read[counts["part"]] = counts
            bar.update(counts["rows"])
    plan = replace(
        plan,
        num_rows=sum(part["kept"] for part in read.values()),
        num_runs=tuple(read[number]["runs"] for number in range(len(parts))),
    )
    if not plan.num_rows:
        raise InputError(f"no row is left to download: all {sum(part['rows'] for part in read.values())} were filtered")
    shards: list[dict[str, Any]] = []
    step = max(1, TASK_ROWS // shard_rows)
    with tasks.progress_bar("select: write", plan.num_rows, "rows") as bar:
        calls = (lambda n=n: _write_shards.remote(plan, n, step) for n in range(0, plan.num_shards, step))
        for made in tasks.run(calls, folder.parent):
            shards += made
            bar.update(sum(shard["rows"] + shard["duplicates"] for shard in made))
    values = _summary([read[number] for number in range(len(parts))], shards) | {"source": described}
    manifest.remove_leftovers(plan.urls)
    manifest.write_json(plan.urls / MANIFEST, values)
    if folder.exists():  # made from tables that have changed
        shutil.rmtree(folder)
    os.replace(plan.urls, folder)
    shutil.rmtree(work)
    return values


def describe(tables: list[SourceConfig], config: SelectConfig) -> dict[str, Any]:
    """Enough to notice that a table or a block-list is no longer the one that it was."""
    return {
        "tables": [[table.dataset, url_table.list_file_sizes(table)] for table in tables],
        "lists": [[file, manifest.sha256(file)] for file in lists(config)],
    }


def lists(config: SelectConfig) -> tuple[str, ...]:
    return config.block_urls + config.block_hosts + config.block_md5


def finished(folder: Path) -> dict[str, Any] | None:
    """The stage's manifest where all shards are there, else None."""
    values = manifest.read_json(folder / MANIFEST)
    if values is None:
        return None
    there = {entry.name for entry in os.scandir(folder)}
    return values if all(shard["name"] in there for shard in values["shards"]) else None


def _summary(read: list[dict[str, Any]], shards: list[dict[str, Any]]) -> dict[str, Any]:
    filtered, rows_in, selected = Counter[str](), Counter[str](), Counter[str]()
    for part in read:
        filtered.update(part["filtered"])
        rows_in[part["dataset"]] += part["rows"]
    for shard in shards:
        filtered["duplicate"] += shard["duplicates"]
        selected.update(shard["datasets"])
    return {
        "rows": rows_in.total(),
        "written": selected.total(),
        "filtered": {cause: rows for cause, rows in sorted(filtered.items()) if rows},
        "datasets": {name: {"rows_in": rows, "selected": selected[name]} for name, rows in rows_in.items()},
        "shards": sorted(
            ({key: shard[key] for key in ("name", "rows", "sha256")} for shard in shards),
            key=lambda shard: int(shard["name"].partition(".")[0]),
        ),
    }


# --- Steps 1 and 2 ---------------------------------------------------------------------------------------------------


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _read_part(
    plan: Plan, number: int, table: SourceConfig, part: url_table.TablePart, blocked: url_filter.BlockLists
) -> dict[str, Any]:
    """One part -> its runs. Returns what became of its rows."""
    if known := manifest.read_json(plan.counts(number)):
        return known
    filtered = Counter[str]()
    counts = {"part": number, "dataset": table.dataset, "rows": 0, "kept": 0, "runs": 0}
    waiting: list[pa.Table] = []
    orders: list[np.ndarray] = []
    bad = Counter[str]()
    for batch in url_table.read(table, part, bad):
        kept = _kept(table, blocked, batch, filtered)
        places = pa.array(np.flatnonzero(kept) + (counts["rows"] + (number << PLACE_BITS)))
        pairs = batch.select(schema.URL.names[:2]).filter(pa.array(kept))
        names = pa.array([table.dataset] * len(pairs), pa.string())
        waiting.append(pa.table([*pairs.columns, names, places], schema=ROWS))
        orders.append(_order(pairs))
        counts["rows"] += len(batch)
        counts["kept"] += len(pairs)
        if sum(map(len, waiting)) >= plan.run_rows:
            counts["runs"] += _write_run(plan.run(number, counts["runs"]), waiting, orders)
    if waiting:
        counts["runs"] += _write_run(plan.run(number, counts["runs"]), waiting, orders)
    counts["rows"] += bad.total()
    counts["filtered"] = dict(filtered + bad)
    manifest.write_json(plan.counts(number), counts)
    return counts


def _kept(
    table: SourceConfig, blocked: url_filter.BlockLists, batch: pa.RecordBatch, filtered: Counter[str]
) -> np.ndarray:
    """Booleans; what is dropped is counted under the first reason there is."""
    kept = np.ones(len(batch), bool)
    for condition in url_table.parse_conditions(table):
        fails = ~condition.holds(batch[url_table.METADATA_PREFIX + condition.column]).to_numpy(zero_copy_only=False)
        filtered[condition.text] += int((kept & fails).sum())
        kept &= ~fails
    md5 = batch[url_table.METADATA_PREFIX + table.md5].cast(pa.string()) if table.md5 else None
    for cause, fails in blocked.match(batch["url"], md5):
        filtered[cause] += int((kept & fails).sum())
        kept &= ~fails
    return kept


def _order(pairs: pa.RecordBatch) -> np.ndarray:
    """A hash of (url, caption)."""
    return runs.mixed(url_filter.hashes(pairs["url"]) ^ runs.mixed(url_filter.hashes(pairs["caption"])))


def _write_run(path: Path, waiting: list[pa.Table], orders: list[np.ndarray]) -> int:
    """One more run, of what is waiting; empties both lists."""
    if not runs.exists(path):
        runs.write(path, pa.concat_tables(waiting), np.concatenate(orders), PLACE.name)
    waiting.clear()
    orders.clear()
    return 1


# --- Step 3 ----------------------------------------------------------------------------------------------------------


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _write_shards(plan: Plan, first: int, count: int) -> list[dict[str, Any]]:
    """Shards first to first + count - 1, as far as there are so many."""
    if known := manifest.read_json(plan.shards(first)):
        return known
    last = min(first + count, plan.num_shards)
    rows, order = runs.read(plan.runs, first, last, plan.num_shards, PLACE.name)
    edges = [*np.searchsorted(order, runs.bounds(plan.num_shards)[first:last]).tolist(), len(rows)]
    is_first = _first_of_equal(rows, order)
    made = [_write_shard(plan, first + n, rows, is_first, edges[n], edges[n + 1]) for n in range(last - first)]
    manifest.write_json(plan.shards(first), made)
    return made


def _write_shard(plan: Plan, number: int, rows: pa.Table, is_first: np.ndarray, low: int, high: int) -> dict[str, Any]:
    kept = rows.slice(low, high - low).filter(pa.array(is_first[low:high])).select(schema.URL.names)
    path = plan.urls / f"{number:05d}.parquet"
    with manifest.new_file(path) as temporary:
        pq.write_table(kept, temporary, compression="zstd")
    return {
        "name": path.name,
        "rows": len(kept),
        "sha256": manifest.sha256(path),
        "duplicates": high - low - len(kept),
        "datasets": dict(Counter(kept["dataset"].to_pylist())),
    }


def _first_of_equal(rows: pa.Table, order: np.ndarray) -> np.ndarray:
    """Booleans, False where an earlier row has the same URL and caption. Equal rows have equal hashes: neighbours."""
    is_first = np.ones(len(rows), bool)
    same = np.flatnonzero(order[1:] == order[:-1]) + 1
    if len(same):
        for group in _clusters(same):
            pairs = rows.select(schema.URL.names[:2]).slice(group[0] - 1, len(group) + 1).to_pylist()
            seen: set[tuple[str, str]] = set()
            for place, pair in enumerate(pairs, group[0] - 1):
                is_first[place] = (pair["url"], pair["caption"]) not in seen
                seen.add((pair["url"], pair["caption"]))
    return is_first


def _clusters(places: np.ndarray) -> Iterator[np.ndarray]:
    """Ascending places cut where they are not consecutive."""
    yield from np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
