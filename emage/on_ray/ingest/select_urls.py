"""The select stage: URL tables -> shards of URLs, after conditions, block lists and the removal of exact duplicates.

    1. One Ray task per part of a table reads its rows. A row that fails a condition (source.where) or is on a block
       list is counted and dropped.
    2. The other rows are sorted by a hash of (url, caption) and written as sorted runs (sorted_runs.py).
    3. Each shard is an equal range of hashes, read from all runs. Equal pairs meet there; the first one in the order
       of the tables is kept.

Therefore no list of all rows is needed. A shard is a random sample of all tables, so that its success rate is
representative and no host gets all requests at once. The same tables give the same shards on any number of machines.
The stage needs neither the network nor images. The tasks are in select_tasks.py.

    output/urls/NNNNN.parquet      schema.URL_SCHEMA
    output/urls/_manifest.json
"""

import os
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray

from emage.config import SelectConfig, SourceConfig
from emage.data.ingest import url_filter
from emage.data.ingest.sources import kinds, table_record
from emage.data.ingest.tables.table_files import TableFiles
from emage.on_ray import tasks
from emage.on_ray.ingest import select_tasks
from emage.on_ray.ingest.select_tasks import SelectPlan
from emage.utils import manifest
from emage.utils.errors import InputError
from emage.utils.redact import redact_settings

MANIFEST = "_manifest.json"
RUN_ROWS = 500_000  # per sorted run: about 100 MB
TASK_ROWS = 500_000  # in the shards that one task writes

FoundTable = tuple[SourceConfig, TableFiles]  # a table and its files


def run(
    tables: list[SourceConfig],
    config: SelectConfig,
    shard_rows: int,
    *,
    blocked: url_filter.BlockLists,
    work: Path,
    folder: Path,
) -> dict[str, Any]:
    """Write the shards of URLs.

    Args:
        tables: The URL tables, in order.
        config: The settings; the manifest records the block lists that they name.
        shard_rows: Rows per shard, on average.
        blocked: The block lists of `config`.
        work: Folder for the intermediate files from which a killed ingest resumes; deleted at the end.
        folder: Where the shards are written.

    Returns:
        The stage's manifest.

    Raises:
        InputError: No row is left.
    """
    found = [(table, kinds.find_files(table)) for table in tables]  # once: a file that comes later is in no step
    described = describe(found, config)
    _survey(found, described, folder.parent)
    key = manifest.fingerprint([_content(described), redact_settings(list(map(asdict, tables))), shard_rows])[:16]
    plan = SelectPlan(str(work / key), shard_rows, RUN_ROWS)
    plan.urls_folder.mkdir(parents=True, exist_ok=True)
    counted = sum(file["rows"] for _, records in described["tables"] for file in records)
    parts = _read_tables(plan, found, blocked, counted, folder.parent)
    plan = replace(
        plan,
        num_rows=sum(part["kept"] for part in parts),
        num_bytes=sum(part["bytes"] for part in parts),
        num_runs=tuple(part["runs"] for part in parts),
    )
    if not plan.num_rows:
        raise InputError(f"no row is left to download: all {sum(part['rows'] for part in parts)} were filtered")
    values = _sum_up(parts, _write_all_shards(plan, folder.parent))
    read = Counter[tuple[str, str]]()
    for part in parts:
        read[part["dataset"], part["file"]] += part["entries"]
    values |= {"source": described, "miscounted": table_record.compare_counts(described["tables"], read)}
    manifest.remove_leftovers(plan.urls_folder)
    manifest.write_json(plan.urls_folder / MANIFEST, values)
    if folder.exists():  # made from tables that have changed
        shutil.rmtree(folder)
    os.replace(plan.urls_folder, folder)
    shutil.rmtree(work)
    return values


def describe(tables: list[FoundTable], config: SelectConfig) -> dict[str, Any]:
    """Return what is known of the tables and the block lists before the tables are read.

    Returns:
        {"tables": [data set, records of its files (table_record.py)] of each; "passed_over": sentences on files of
        the tables' folders that are not read; "lists": [path, sha256] of each}
    """
    return {
        "tables": [[table.dataset, [table_record.facts(at, info) for info in at.infos]] for table, at in tables],
        "passed_over": [text for table, at in tables if (text := at.passed_over_text(table))],
        "lists": _list_digests(config),
    }


def _survey(tables: list[FoundTable], described: dict[str, Any], output: Path) -> None:
    """Add the number of rows and the sha256 of each file of the tables to their description."""
    paths = [(table, path) for table, files in tables for path in files.paths]
    records = [record for _, records in described["tables"] for record in records]
    with tasks.progress_bar("select: count", len(paths), "files") as bar:
        calls = (lambda n=n, p=p: select_tasks.survey_file.remote(n, *p) for n, p in enumerate(paths))
        for number, survey in tasks.run(calls, output):
            records[number] |= survey
            bar.update()


def has_changed(described: dict[str, Any], tables: list[SourceConfig], config: SelectConfig) -> bool:
    """Return True if a table or a block list is not what the stage read, as its manifest describes it."""
    datasets = [dataset for dataset, _ in described["tables"]]
    if described["lists"] != _list_digests(config) or datasets != [table.dataset for table in tables]:
        return True
    known = [files for _, files in described["tables"]]
    return any(table_record.has_changed(files, table) for files, table in zip(known, tables, strict=True))


def _list_digests(config: SelectConfig) -> list[list[str]]:
    return [[file, manifest.sha256(file)] for file in block_list_files(config)]


def _content(described: dict[str, Any]) -> list[Any]:
    return [[[name, table_record.content(files)] for name, files in described["tables"]], described["lists"]]


def block_list_files(config: SelectConfig) -> tuple[str, ...]:
    """Return the paths of all block lists."""
    return config.block_urls + config.block_hosts + config.block_md5


def finished(folder: Path) -> dict[str, Any] | None:
    """Return the stage's manifest if all shards exist, else None."""
    values = manifest.read_json(folder / MANIFEST)
    if values is None:
        return None
    names = {entry.name for entry in os.scandir(folder)}
    return values if all(shard["name"] in names for shard in values["shards"]) else None


def _read_tables(
    plan: SelectPlan, tables: list[FoundTable], blocked: url_filter.BlockLists, num_rows: int, output: Path
) -> list[dict[str, Any]]:
    """Write the sorted runs of all tables. Return the counters of each part."""
    parts = [(table, part) for table, files in tables for part in kinds.split(table, files)]
    shared = ray.put(blocked)
    counters: dict[int, dict[str, Any]] = {}
    with tasks.progress_bar("select: read", num_rows, "rows") as bar:
        calls = (
            lambda n=n, p=p: select_tasks.read_part.remote(plan, n, p[0], p[1], shared) for n, p in enumerate(parts)
        )
        for counts in tasks.run(calls, output):
            counters[counts["part"]] = counts
            bar.update(counts["rows"])
    return [counters[number] for number in range(len(parts))]


def _write_all_shards(plan: SelectPlan, output: Path) -> list[dict[str, Any]]:
    """Write all shards. Return the counters of each, in any order."""
    shards: list[dict[str, Any]] = []
    step = plan.shards_per_task(TASK_ROWS)
    with tasks.progress_bar("select: write", plan.num_rows, "rows") as bar:
        calls = (lambda n=n: select_tasks.write_shards.remote(plan, n, step) for n in range(0, plan.num_shards, step))
        for written in tasks.run(calls, output):
            shards += written
            bar.update(sum(shard["rows"] + shard["duplicates"] for shard in written))
    return shards


def _sum_up(parts: list[dict[str, Any]], shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the stage's counters from those of the parts and of the shards."""
    filtered, rows_in, selected = Counter[str](), Counter[str](), Counter[str]()
    for part in parts:
        filtered.update(part["filtered"])
        rows_in[part["dataset"]] += part["rows"]
    for shard in shards:
        filtered["duplicate"] += shard["duplicates"]
        selected.update(shard["datasets"])
    return {
        "rows": rows_in.total(),
        "written": selected.total(),
        "filtered": {reason: rows for reason, rows in sorted(filtered.items()) if rows},
        "datasets": {name: {"rows_in": rows, "selected": selected[name]} for name, rows in rows_in.items()},
        "shards": sorted(
            ({key: shard[key] for key in ("name", "rows", "sha256")} for shard in shards),
            key=lambda shard: int(shard["name"].partition(".")[0]),
        ),
    }
