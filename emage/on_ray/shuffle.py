"""Tokenized shards -> the token table: all rows in one seeded random order, in files of equal size.

    1. A row's place in the order is a hash of (seed, uid): no list of all rows is ever needed.
    2. Each run (some shards, RUN_BYTES) is sorted by that hash and written as an Arrow file, together with the number
       of its rows in front of each of `num_buckets` equal ranges of hashes.
    3. Added up over the runs, those numbers say which buckets hold a given file's rows.
    4. Each file reads these buckets' rows from every run, sorts them, cuts out its own and writes them.

Runs and files are Ray tasks of pure pyarrow; each needs the memory of one run, or of a file and two buckets.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

import emage
from emage import manifest, schema
from emage.config import ShuffleConfig
from emage.on_ray import download, tasks, tokenizing

RUN_BYTES = 256 << 20  # of tokenized shards, compressed, in one run
BUCKETS_PER_FILE = 4  # more: less is read twice, in smaller pieces
CHUNK = 1_024  # rows of an Arrow record batch, the least that is read of a run
MANIFEST = "_manifest.json"  # readers of the folder as one table skip names that begin with _
ORDER = "order"  # the column that runs are sorted by


@dataclass(frozen=True)
class Plan:
    config: ShuffleConfig
    tokenizer: schema.TokenizerInfo
    folder: str  # runs, and the files until all are there
    num_rows: int

    @property
    def num_files(self) -> int:
        return max(1, -(-self.num_rows // self.config.rows_per_file))

    @property
    def num_buckets(self) -> int:
        return self.num_files * BUCKETS_PER_FILE

    @property
    def table(self) -> Path:
        return Path(self.folder) / "table"

    def run(self, number: int, ending: str) -> Path:
        return Path(self.folder) / f"run-{number:05d}{ending}"

    def file(self, number: int) -> Path:
        return self.table / f"{number:05d}-of-{self.num_files:05d}.parquet"


def run(config: ShuffleConfig, *, tokenized: Path, work: Path, folder: Path) -> dict[str, Any]:
    """Writes the token table into `folder`. Returns its manifest, which is the same for the same rows and settings."""
    made = manifest.read_json(tokenized / manifest.NAME)
    info = schema.TokenizerInfo(**{**made["tokenizer"], "grid": tuple(made["tokenizer"]["grid"])})
    plan = Plan(config, info, str(work / made["input"][:16]), made["written"])
    plan.table.mkdir(parents=True, exist_ok=True)
    runs = list(_runs(tokenized, made["shards"]))
    files = []
    at_once = max(1, int(ray.cluster_resources().get("CPU", 1)) // 2)
    with tasks.bar("shuffle", 2 * plan.num_rows, "rows") as bar:
        for rows in tasks.run((lambda n=n, r=r: _write_run.remote(plan, n, r) for n, r in enumerate(runs)), at_once):
            bar.update(rows)
        starts = np.sum([np.load(plan.run(number, ".npy")) for number in range(len(runs))], axis=0)
        calls = (lambda n=n: _write_file.remote(plan, n, starts, len(runs)) for n in range(plan.num_files))
        for file in tasks.run(calls, at_once):
            files.append(file)
            bar.update(file["rows"])
    values = {
        "rows": sum(file["rows"] for file in files),
        "files": sorted(files, key=lambda file: file["name"]),
        "input": made["input"],
        "tokenizer": made["tokenizer"],
    }
    manifest.write_json(plan.table / MANIFEST, values)
    if folder.exists():  # made from other tokenized shards
        shutil.rmtree(folder)
    os.replace(plan.table, folder)
    shutil.rmtree(work)
    return values


def finished(tokenized: Path, folder: Path) -> dict[str, Any] | None:
    """The token table's manifest where the table is there and made from today's tokenized shards, else None."""
    values, made = manifest.read_json(folder / MANIFEST), manifest.read_json(tokenized / manifest.NAME)
    if values is None or made is None or values["input"] != made["input"]:
        return None
    return values if all((folder / file["name"]).exists() for file in values["files"]) else None


def _runs(tokenized: Path, count: int) -> Iterator[list[str]]:
    """The shards' files in groups of about RUN_BYTES."""
    group, size = [], 0
    for number in range(count):
        file = download.shard_folder(tokenized, number) / tokenizing.TOKENS
        group.append(str(file))
        size += file.stat().st_size
        if size >= RUN_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def order(uids: np.ndarray, seed: int) -> np.ndarray:
    """(n,) int64 -> (n,) uint64, evenly spread: the mixing function of splitmix64."""
    x = uids.astype(np.uint64) + np.uint64(seed % (1 << 64)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _write_run(plan: Plan, number: int, files: list[str]) -> int:
    """Step 2. Returns the number of rows."""
    if plan.run(number, ".npy").exists():  # written last
        return int(np.load(plan.run(number, ".npy"))[-1])
    table = pa.concat_tables([pq.read_table(file) for file in files])
    table = _sorted(table.append_column(ORDER, pa.array(order(table["uid"].to_numpy(), plan.config.seed))))
    temporary = plan.run(number, f".{os.getpid()}.tmp")
    with pa.ipc.new_file(temporary, table.schema) as file:
        file.write_table(table, max_chunksize=CHUNK)
    os.replace(temporary, plan.run(number, ".arrow"))
    # The hash's upper 32 bits times the number of buckets: which bucket, without a rest.
    buckets = (table[ORDER].to_numpy() >> np.uint64(32)) * np.uint64(plan.num_buckets) >> np.uint64(32)
    starts = np.searchsorted(buckets, np.arange(plan.num_buckets + 1))
    with open(temporary, "wb") as file:
        np.save(file, starts)
    os.replace(temporary, plan.run(number, ".npy"))
    return len(table)


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _write_file(plan: Plan, number: int, starts: np.ndarray, num_runs: int) -> dict[str, Any]:
    """Step 4. `starts` (num_buckets + 1,): rows of the whole table in front of each bucket."""
    path = plan.file(number)
    first, last = (plan.num_rows * n // plan.num_files for n in (number, number + 1))
    if not path.exists():
        low = int(np.searchsorted(starts, first, side="right")) - 1
        high = max(low, int(np.searchsorted(starts, last, side="left")))
        pieces = [_piece(plan, run, low, high) for run in range(num_runs)]
        table = _sorted(pa.concat_tables(pieces)).slice(first - int(starts[low]), last - first)
        table = table.drop_columns([ORDER]).cast(schema.token_table(plan.tokenizer, emage.__version__))
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        pq.write_table(table, temporary, compression="zstd", row_group_size=plan.config.row_group_rows)
        os.replace(temporary, path)
    return {"name": path.name, "rows": last - first, "sha256": manifest.sha256(path)}


def _piece(plan: Plan, run: int, low: int, high: int) -> pa.Table:
    """A run's rows of buckets low to high - 1. The run is memory-mapped: the rest stays on disk."""
    starts = np.load(plan.run(run, ".npy"), mmap_mode="r")
    with pa.memory_map(str(plan.run(run, ".arrow"))) as file:
        table = pa.ipc.open_file(file).read_all()
        return table.slice(int(starts[low]), int(starts[high] - starts[low]))


def _sorted(table: pa.Table) -> pa.Table:
    """By hash, and by uid where two hashes are equal."""
    return table.take(pa.array(np.lexsort((table["uid"].to_numpy(), table[ORDER].to_numpy()))))
