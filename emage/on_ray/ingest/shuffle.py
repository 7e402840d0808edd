"""The shuffle stage: tokenized shards -> the token table, all rows in one seeded random order, in files of equal size.

    1. Equal images are found by sorting (sha256, uid) of all rows by sha256 (sorted_runs.py). All rows of an image
       except the one with the lowest uid are counted and, with `drop_same_content`, dropped.
    2. The order of the table is that of a hash of (seed, uid), so no list of all rows is needed. Some shards at a time
       (RUN_BYTES) are sorted by it into a sorted run, whose rows in each of `num_ranges` equal ranges of hashes are
       counted.
    3. The sums of these counts over the runs give the ranges that hold the rows of a file. The task of a file reads
       these ranges from every run, slices its rows and writes them.

The Ray tasks use pyarrow alone; each needs the memory of one run, or of a file and two ranges.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from emage.config import ShuffleConfig
from emage.data import schema, table_check
from emage.data.ingest import url_filter
from emage.on_ray import tasks
from emage.on_ray.ingest import sorted_runs, tokenize_shards
from emage.on_ray.ingest.download import image_shards
from emage.utils import manifest
from emage.version import __version__

RUN_BYTES = 256 << 20  # of tokenized shards, compressed, in one sorted run
COMPARED_ROWS = 4_000_000  # rows whose sha256 one task compares
LISTED = ("name", "rows", "sha256", "footer")  # of a file, in the table's manifest
RANGES_PER_FILE = 4  # with more ranges fewer rows are read twice, but in smaller pieces


@dataclass(frozen=True)
class ShufflePlan:
    """The sizes of sorted runs, ranges and files, and the paths in the work folder."""

    config: ShuffleConfig
    tokenizer: schema.TokenizerInfo
    folder: str  # of the sorted runs, and of the table's files until all are written
    num_rows: int  # of the table
    num_runs: int

    @property
    def num_files(self) -> int:
        """Return the number of files of the table."""
        return max(1, -(-self.num_rows // self.config.rows_per_file))

    @property
    def num_ranges(self) -> int:
        """Return the number of ranges of hashes by which the rows of sorted runs are counted."""
        return self.num_files * RANGES_PER_FILE

    @property
    def table_folder(self) -> Path:
        """Return the folder in which the table's files are written."""
        return Path(self.folder) / "table"

    @property
    def same_images_path(self) -> Path:
        """Return the file with the uids, sorted, of the rows whose image is that of an earlier row."""
        return Path(self.folder) / "same.npy"

    def run_path(self, number: int) -> Path:
        """Return the path of a sorted run of rows (step 2)."""
        return Path(self.folder) / f"run-{number:05d}"

    def digests_path(self, number: int) -> Path:
        """Return the path of a sorted run of the images' digests (step 1)."""
        return Path(self.folder) / f"sha256-{number:05d}"

    def file_path(self, number: int) -> Path:
        """Return the path of a file of the table."""
        return self.table_folder / f"{number:05d}-of-{self.num_files:05d}.parquet"


def run(config: ShuffleConfig, *, tokenized: Path, work: Path, folder: Path) -> dict[str, Any]:
    """Write the token table.

    Args:
        config: The settings.
        tokenized: The tokenized shards.
        work: Folder for the intermediate files from which a killed ingest resumes; deleted at the end.
        folder: Where the table is written.

    Returns:
        The table's manifest, which is the same for the same rows and settings.
    """
    before = manifest.read_json(tokenized / manifest.NAME)
    info = schema.TokenizerInfo(**{**before["tokenizer"], "grid": tuple(before["tokenizer"]["grid"])})
    inputs = list(_group_shards(tokenized, before["shards"]))
    plan = ShufflePlan(config, info, str(work / input_fingerprint(before)[:16]), before["written"], len(inputs))
    plan.table_folder.mkdir(parents=True, exist_ok=True)
    same = _find_same_images(plan, inputs)
    if config.drop_same_content:
        plan = replace(plan, num_rows=plan.num_rows - same)
    files = []
    with tasks.progress_bar("shuffle", 2 * plan.num_rows, "rows") as bar:
        starts = np.zeros(plan.num_ranges + 1, np.int64)
        for rows in _run_all(lambda n: _write_run.remote(plan, n, inputs[n]), range(plan.num_runs)):
            starts += rows
            bar.update(int(rows[-1]))
        for file in _run_all(lambda n: _write_file.remote(plan, n, starts), range(plan.num_files)):
            files.append(file)
            bar.update(file["rows"])
    values = {
        "rows": before["written"],
        "written": sum(file["rows"] for file in files),
        "same_content": same,
        "filtered": {"same_content": same} if config.drop_same_content and same else {},
        "datasets": _sum_datasets(files),
        "files": sorted(({k: file[k] for k in LISTED} for file in files), key=lambda file: file["name"]),
        "input": input_fingerprint(before),
        "tokenizer": before["tokenizer"],
    }
    manifest.remove_leftovers(plan.table_folder)
    manifest.write_json(plan.table_folder / table_check.MANIFEST, values)
    if folder.exists():  # made from other tokenized shards
        shutil.rmtree(folder)
    os.replace(plan.table_folder, folder)
    shutil.rmtree(work)
    return values


def input_fingerprint(tokenized: dict[str, Any]) -> str:
    """Return a digest of all tokenized shards, made from the manifest of their stage."""
    return manifest.fingerprint([tokenized[name] for name in ("input", "settings", "written")])


def finished(folder: Path) -> dict[str, Any] | None:
    """Return the token table's manifest if all its files exist, else None."""
    values = manifest.read_json(folder / table_check.MANIFEST)
    return values if values and all((folder / file["name"]).exists() for file in values["files"]) else None


def _run_all(call: Any, numbers: range) -> Iterator[Any]:
    return tasks.run(lambda n=n: call(n) for n in numbers)


def _sum_datasets(files: list[dict[str, Any]]) -> dict[str, int]:
    names = sorted({name for file in files for name in file["datasets"]})
    return {name: sum(file["datasets"].get(name, 0) for file in files) for name in names}


def _group_shards(tokenized: Path, count: int) -> Iterator[list[str]]:
    """Yield the shards' files in groups of about RUN_BYTES."""
    group, size = [], 0
    for number in range(count):
        file = image_shards.shard_folder(tokenized, number) / tokenize_shards.TOKENS
        group.append(str(file))
        size += file.stat().st_size if file.is_file() else 0  # the task that reads it says that it is missing
        if size >= RUN_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _checked(file: str) -> Path:
    """Return the path of a tokenized shard's file. Raise InputError if it is damaged."""
    path = Path(file)
    return manifest.check_outputs(path.parent, [path.name])[0]


# Step 1: equal images


def _find_same_images(plan: ShufflePlan, inputs: list[list[str]]) -> int:
    """Write `plan.same_images_path`: the uids of rows with the image of an earlier row. Return their number."""
    if not plan.same_images_path.exists():
        num_ranges = max(1, -(-plan.num_rows // COMPARED_ROWS))
        with tasks.progress_bar("shuffle: compare", 2 * plan.num_rows, "rows") as bar:
            for rows in _run_all(lambda n: _write_digests.remote(plan, n, inputs[n]), range(plan.num_runs)):
                bar.update(rows)
            found = [np.empty(0, np.int64)]
            for rows, uids in _run_all(lambda n: _find_same_in_range.remote(plan, n, num_ranges), range(num_ranges)):
                found.append(uids)
                bar.update(rows)
        with manifest.new_file(plan.same_images_path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.sort(np.concatenate(found)))
    return len(np.load(plan.same_images_path, mmap_mode="r"))


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _write_digests(plan: ShufflePlan, number: int, files: list[str]) -> int:
    """Write a sorted run of (uid, second 8 bytes of sha256), in the order of the first 8 bytes. Return its rows."""
    path = plan.digests_path(number)
    if not sorted_runs.exists(path):
        rows = pa.concat_tables([pq.read_table(_checked(file), columns=["uid", "sha256"]) for file in files])
        digests = np.frombuffer(bytes.fromhex("".join(rows["sha256"].to_pylist())), ">u8").reshape(len(rows), 4)
        table = pa.table({"uid": rows["uid"], "rest": digests[:, 1].astype(np.uint64)})
        sorted_runs.write(path, *sorted_runs.sort(table, digests[:, 0].astype(np.uint64), "uid"))
    return sorted_runs.num_rows(path)


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _find_same_in_range(plan: ShufflePlan, number: int, num_ranges: int) -> tuple[int, np.ndarray]:
    """Return the number of rows of a range, and the uids of those that are not the first with their image."""
    paths = [plan.digests_path(n) for n in range(plan.num_runs)]
    table, first = sorted_runs.read_ranges(paths, number, number + 1, num_ranges, "uid")
    uid, rest = table["uid"].to_numpy(), table["rest"].to_numpy()
    order = np.lexsort((uid, rest, first))
    is_same = (np.diff(first[order]) == 0) & (np.diff(rest[order]) == 0)
    return len(uid), uid[order][1:][is_same]


# Steps 2 and 3: tokenized shards -> sorted runs -> files


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _write_run(plan: ShufflePlan, number: int, files: list[str]) -> np.ndarray:
    """Write a sorted run of step 2. Return (num_ranges + 1,): the number of its rows before each range."""
    path = plan.run_path(number)
    if not sorted_runs.exists(path):
        table = pa.concat_tables([pq.read_table(_checked(file)) for file in files])
        same = np.load(plan.same_images_path, mmap_mode="r")
        if plan.config.drop_same_content and len(same):
            table = table.filter(pa.array(~url_filter.is_in(same, table["uid"].to_numpy())))
        hashes = sorted_runs.mix(table["uid"].to_numpy(), plan.config.seed)
        sorted_runs.write(path, *sorted_runs.sort(table, hashes, "uid"))
    return sorted_runs.rows_before_ranges(path, plan.num_ranges)


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _write_file(plan: ShufflePlan, number: int, starts: np.ndarray) -> dict[str, Any]:
    """Write a file of step 3. Return its entry in the manifest.

    `starts`, (num_ranges + 1,), is the number of the table's rows before each range.
    """
    path = plan.file_path(number)
    first, last = (plan.num_rows * n // plan.num_files for n in (number, number + 1))
    if not path.exists():
        low = min(int(np.searchsorted(starts, first, side="right")), plan.num_ranges) - 1  # an empty table has all 0
        high = max(low + 1, int(np.searchsorted(starts, last, side="left")))
        paths = [plan.run_path(n) for n in range(plan.num_runs)]
        table, _ = sorted_runs.read_ranges(paths, low, high, plan.num_ranges, "uid")
        table = table.slice(first - int(starts[low]), last - first)
        table = table.cast(schema.token_schema(plan.tokenizer, __version__))
        with manifest.new_file(path) as temporary:
            size = plan.config.row_group_rows
            pq.write_table(table, temporary, compression="zstd", row_group_size=size, write_page_checksum=True)
    names = pq.read_table(path, columns=["dataset"])["dataset"].value_counts().to_pylist()
    return {
        "name": path.name,
        "rows": last - first,
        "sha256": manifest.sha256(path),
        "footer": table_check.footer_sha256(path),
        "datasets": {count["values"]: count["counts"] for count in names},
    }
