"""Shards of URLs -> image shards, by a Ray task for every shard. What happens to a row: img2dataset_fetch.py.

1. The first pass makes a folder `shards/NNNNN` of each shard of URLs: `pictures.parquet` (schema.IMAGE),
   `failed.parquet` (every other row with its cause), and `manifest.json`, written under another name and renamed
   last.
2. When it has ended everywhere, a later pass fetches again what failed for a cause that may pass by itself. It
   adds `pictures-2-DIGEST.parquet`, writes `failed-2-DIGEST.parquet` in place of `failed.parquet`, and replaces the
   manifest last: only the files that the manifest lists count.
3. The stage's own manifest sums the shards'.
"""

import os
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from emage.config import DownloadConfig
from emage.data import schema
from emage.data.ingest import fetch
from emage.on_ray import tasks
from emage.on_ray.ingest import img2dataset_fetch
from emage.on_ray.ingest.img2dataset_fetch import FAILED, IMAGES, SHARD_DIGITS
from emage.utils import manifest
from emage.utils.errors import InputError

URLS = "_manifest.json"  # lists the shards of URLs
SUMMED = ("rows", "written", "won_back")  # the counters of a shard's manifest
SUMMED_BY_NAME = ("failed", "datasets")  # and those with one number for each cause or data set
# The settings that decide which images come out and what they look like.
WHAT = ("image_size", "min_image_size", "max_image_pixels", "max_bytes", "allow_private_hosts")


@dataclass(frozen=True)
class Job:
    """One shard, as a task is told of it: never its rows."""

    number: int
    rows: int
    urls: str  # the parquet file (schema.URL)
    input: str  # its sha256
    folder: str
    key_digits: int  # of a row's place in its shard
    config: DownloadConfig


def run(
    config: DownloadConfig, urls: Path, folder: Path, blocked_md5: np.ndarray | ray.ObjectRef | None = None
) -> dict[str, Any]:
    """Makes the passes that the shards in `folder` have not had yet. Returns the stage's manifest.

    `urls` holds the shards of URLs and their manifest. `blocked_md5` (n,) uint64, sorted: the first 8 bytes, big
    endian, of the md5 of images that must not come in. Raises InputError where a shard was made from other rows,
    where too few images arrive, and where the folder cannot be written.
    """
    with tasks.explain_disk_errors(folder):
        jobs = _jobs(config, urls, folder)
        folder.mkdir(exist_ok=True)
        manifest.remove_leftovers(folder)
        if isinstance(blocked_md5, np.ndarray):
            blocked_md5 = ray.put(blocked_md5)  # once, not with every task
        try:
            for number in range(1, config.passes + 1):
                if left := _left(jobs, number):
                    (folder / manifest.NAME).unlink(missing_ok=True)  # it sums what is about to change
                    _pass(number, jobs, left, folder, blocked_md5)
        finally:
            manifest.remove_leftovers(folder)  # of workers that died
        values = {**_sums(folder, len(jobs)), "passes": config.passes}
        manifest.write_json(folder / manifest.NAME, values)
    return values


def finished(folder: Path, passes: int = 1) -> dict[str, Any] | None:
    """The stage's manifest where every shard of it is there and had that many passes, else None."""
    values = manifest.read_json(folder / manifest.NAME)
    if values is None or values["passes"] < passes:
        return None
    there = set(os.listdir(folder))  # a shard's folder has its name when it is complete
    return values if all(shard_folder(folder, n).name in there for n in range(values["shards"])) else None


def shard_folder(folder: Path, number: int) -> Path:
    return folder / f"{number:0{SHARD_DIGITS}d}"


def shard_manifest(folder: Path, number: int) -> dict[str, Any] | None:
    """A shard's manifest, or None where the shard is not there."""
    return manifest.read_json(shard_folder(folder, number) / manifest.NAME)


def image_files(folder: Path, number: int) -> list[Path]:
    """The parquet files (schema.IMAGE) of an image shard: that of the first pass, then those of later ones."""
    shard = shard_manifest(folder, number)
    assert shard is not None, f"image shard {number} went away"
    return [shard_folder(folder, number) / name for name in shard["pictures"]]


def content(folder: Path, number: int) -> str:
    """Fingerprint of an image shard's images: what a tokenized shard is made from."""
    shard = shard_manifest(folder, number)
    assert shard is not None, f"image shard {number} went away"
    return manifest.fingerprint([shard["outputs"][name] for name in shard["pictures"]])


# --- On the driver ---------------------------------------------------------------------------------------------------


def _jobs(config: DownloadConfig, urls: Path, folder: Path) -> list[Job]:
    """A job for each shard of URLs. Raises InputError where `urls` is not finished."""
    listed = manifest.read_json(urls / URLS)
    if listed is None:
        raise InputError(f"{urls} holds no list of shards ({URLS}); run stage=select (or stage=all) first")
    digits = len(str(max([config.shard_rows, *(shard["rows"] for shard in listed["shards"])]) - 1))
    return [
        Job(
            number=number,
            rows=shard["rows"],
            urls=str(urls / shard["name"]),
            input=shard["sha256"],
            folder=str(shard_folder(folder, number)),
            key_digits=digits,
            config=config,
        )
        for number, shard in enumerate(listed["shards"])
    ]


def _left(jobs: list[Job], number: int) -> list[tuple[Job, int]]:
    """The shards that a pass has work in, each with the number of rows that it will fetch."""
    left = []
    for job in jobs:
        shard = manifest.read_json(Path(job.folder) / manifest.NAME)
        if shard is None:
            left.append((job, job.rows))
            continue
        if shard["input"] != job.input:
            raise InputError(
                f"{job.folder} was downloaded from other rows than {job.urls} holds now; "
                "choose another output= or delete the folder"
            )
        if shard["settings"] != _settings(job.config):
            raise InputError(
                f"{job.folder} was downloaded with other settings (download.{', download.'.join(WHAT)}); "
                "choose another output= or delete the folder"
            )
        rows = sum(count for cause, count in shard["failed"].items() if cause in fetch.RETRIED_LATER)
        if shard["passes"] < number and rows:
            left.append((job, rows))
    return left


def _settings(config: DownloadConfig) -> str:
    return manifest.fingerprint({name: getattr(config, name) for name in WHAT})


def _pass(
    number: int, jobs: list[Job], left: list[tuple[Job, int]], folder: Path, blocked: ray.ObjectRef | None
) -> None:
    """Runs one pass over its shards, with a bar. The sums are running ones: there may be 28,000 shards."""
    config = jobs[0].config
    task = _download.options(resources=tasks.resources_of_nodes(config.node_resource))
    calls = (lambda job=job: task.remote(job, number, blocked) for job, _ in left)
    rows = sum(rows for _, rows in left)
    before = sum(job.rows for job in jobs) - rows if number == 1 else 0
    stage = "download" if number == 1 else f"download, pass {number}"
    fetched = arrived = 0
    running = tasks.run(
        calls, folder, lambda: config.shards_in_flight or tasks.default_concurrency(config.node_resource)
    )
    with tasks.progress_bar(stage, before + rows, "rows", before) as bar, closing(running) as results:
        for tried, written in results:
            fetched, arrived = fetched + tried, arrived + written
            speed = arrived / max(bar.format_dict["elapsed"], 1e-9)
            bar.set_postfix_str(f"{arrived / max(fetched, 1):.1%} arrived, {speed:.1f} images/s", refresh=False)
            bar.update(tried)


def _sums(folder: Path, num_shards: int) -> dict[str, Any]:
    """The shards' counters added up."""
    total: Counter[str] = Counter()
    by_name: dict[str, Counter[str]] = {name: Counter() for name in SUMMED_BY_NAME}
    for number in range(num_shards):
        shard = shard_manifest(folder, number)
        assert shard is not None, f"image shard {number} went away"
        total.update({name: shard[name] for name in SUMMED})
        for name, counts in by_name.items():
            counts.update(shard[name])
    summed = {name: dict(sorted(counts.items())) for name, counts in by_name.items()}
    return {
        "shards": num_shards,
        **{name: total[name] for name in SUMMED},
        **summed,
        "content": manifest.fingerprint([content(folder, number) for number in range(num_shards)]),
    }


# --- On the worker ---------------------------------------------------------------------------------------------------


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _download(job: Job, number: int, blocked: np.ndarray | None) -> tuple[int, int]:
    """One pass over one shard. Returns how many rows it fetched, and how many of them are images now.

    Where a worker dies, Ray starts its task again, perhaps after its very last step; the bar may then overshoot.
    """
    before = manifest.read_json(Path(job.folder) / manifest.NAME)
    if before is not None and before["passes"] >= number:
        return before["rows"], before["written"]
    return _first_pass(job, blocked) if before is None else _later_pass(job, number, before, blocked)


def _first_pass(job: Job, blocked: np.ndarray | None) -> tuple[int, int]:
    with manifest.new_folder(job.folder, replace=False) as folder:
        try:
            least = job.config.min_success_rate
            outcome = img2dataset_fetch.fetch_rows(job.number, _rows(job), folder, job.config, blocked, least)
        except InputError as error:
            raise InputError(f"shard {job.number}: {error}") from None
        values = {
            "shard": job.number,
            "input": job.input,
            "settings": _settings(job.config),
            "rows": job.rows,
            "written": outcome.datasets.total(),
            "won_back": 0,
            "failed": dict(sorted(outcome.failed.items())),
            "datasets": dict(sorted(outcome.datasets.items())),
            "passes": 1,
            "pictures": [IMAGES],
            "failures": FAILED,
            "outputs": {name: manifest.sha256(folder / name) for name in (IMAGES, FAILED)},
        }
        manifest.write_json(folder / manifest.NAME, values)
    values = manifest.read_json(Path(job.folder) / manifest.NAME)  # a task that was given up may have been first
    return values["rows"], values["written"]


def _later_pass(job: Job, number: int, before: dict[str, Any], blocked: np.ndarray | None) -> tuple[int, int]:
    """Step 2 of the docstring on top. Until the manifest is replaced, nothing of it counts."""
    shard = Path(job.folder)
    failed = pq.read_table(shard / before["failures"])
    is_passing = np.isin(failed["cause"].to_pylist(), fetch.RETRIED_LATER)
    with TemporaryDirectory(prefix=f".{shard.name}.", dir=shard.parent) as temporary:
        folder = Path(temporary)
        again = failed.filter(pa.array(is_passing)).drop_columns(["cause"])
        outcome = img2dataset_fetch.fetch_rows(job.number, again, folder, job.config, blocked, min_success_rate=0.0)
        failed = pa.concat_tables([failed.filter(pa.array(~is_passing)), pq.read_table(folder / FAILED)])
        pq.write_table(failed.sort_by("key"), folder / FAILED)
        won = outcome.datasets.total()
        digests = {name: manifest.sha256(folder / name) for name in (FAILED, *([IMAGES] if won else []))}
        moves = {name: _of_pass(name, number, digest) for name, digest in digests.items()}
        for name, new_name in moves.items():
            os.replace(folder / name, shard / new_name)
    added = [name for name in moves.values() if name != moves[FAILED]]
    counted = {name: digest for name, digest in before["outputs"].items() if name != before["failures"]}
    values = {
        **before,
        "written": before["written"] + won,
        "won_back": before["won_back"] + won,
        "failed": dict(sorted(Counter(failed["cause"].to_pylist()).items())),
        "datasets": dict(sorted((Counter(before["datasets"]) + outcome.datasets).items())),
        "passes": number,
        "pictures": [*before["pictures"], *added],
        "failures": moves[FAILED],
        "outputs": counted | {moves[name]: digest for name, digest in digests.items()},
    }
    manifest.write_json(shard / manifest.NAME, values)
    _remove_uncounted(shard)
    return won + outcome.failed.total(), won


def _of_pass(name: str, number: int, digest: str) -> str:
    """By its content too: a task that was given up, and still works, must not write into a file that counts."""
    return name.replace(".", f"-{number}-{digest[:8]}.")


def _remove_uncounted(shard: Path) -> None:
    """Deletes what a pass replaced, or a killed one left."""
    values = manifest.read_json(shard / manifest.NAME)
    for file in (*shard.glob("*.parquet"), *shard.glob(".*")):
        if file.name not in values["outputs"]:
            file.unlink()


def _rows(job: Job) -> pa.Table:
    """A shard's rows under their keys: the shard's number, then the place in it."""
    if manifest.sha256(job.urls) != job.input:
        raise InputError(f"{job.urls} is not the file that {URLS} beside it lists; delete that folder and select anew")
    rows = pq.read_table(job.urls, schema=schema.URL)
    keys = [f"{job.number:0{SHARD_DIGITS}d}{place:0{job.key_digits}d}" for place in range(len(rows))]
    return rows.append_column("key", pa.array(keys, pa.string()))
