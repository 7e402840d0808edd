"""The download of one shard, as a Ray task. img2dataset_fetch.py downloads the rows.

Round 1 writes the shard's folder under another name and renames it when it is complete. A retry round adds its images,
writes a new file of failures and replaces the manifest last: until then, readers ignore the new files.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from emage.config import DownloadConfig, SourceConfig
from emage.data import schema
from emage.data.ingest.download import statuses
from emage.on_ray.ingest.download import img2dataset_fetch
from emage.on_ray.ingest.download.image_shards import FAILED, IMAGES, SHARD_DIGITS
from emage.utils import manifest
from emage.utils.errors import InputError

URLS_MANIFEST = "_manifest.json"  # lists the shards of URLs
# The settings that decide which images arrive and what they look like.
OUTPUT_SETTINGS = ("image_size", "min_image_size", "max_image_pixels", "max_bytes", "allow_private_hosts")


@dataclass(frozen=True)
class ShardJob:
    """A shard to download, as a task receives it. The task reads the rows."""

    number: int
    rows: int  # their number
    urls: str  # the parquet file (schema.URL_SCHEMA)
    input: str  # the sha256 of that file
    folder: str  # of the image shard
    key_digits: int  # digits of a row's index in the row's key
    config: DownloadConfig
    inputs: tuple[SourceConfig, ...] = ()  # resolved; those of stored images are read


def check_origin(job: ShardJob, shard: dict[str, Any]) -> None:
    """Raise InputError if an image shard, by its manifest, was made from other rows or with other settings."""
    if shard["input"] != job.input:
        raise InputError(
            f"{job.folder} was downloaded from other rows than {job.urls} holds now; "
            "choose another output= or delete the folder"
        )
    if shard["settings"] != _settings(job.config):
        raise InputError(
            f"{job.folder} was downloaded with other settings (download.{', download.'.join(OUTPUT_SETTINGS)}); "
            "choose another output= or delete the folder"
        )


def _settings(config: DownloadConfig) -> str:
    return manifest.fingerprint({name: getattr(config, name) for name in OUTPUT_SETTINGS})


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def download_round(job: ShardJob, round_number: int, blocked: np.ndarray | None) -> tuple[int, int]:
    """Run one round on one shard. Return the number of rows that were tried, and of those that are images now.

    If a worker dies, Ray starts its task again, perhaps after its very last step: the sum of the results may then be
    higher than the number of rows.
    """
    before = manifest.read_json(Path(job.folder) / manifest.NAME)
    if before is not None and before["passes"] >= round_number:
        return before["rows"], before["written"]
    return _first_round(job, blocked) if before is None else _retry_round(job, round_number, before, blocked)


def _first_round(job: ShardJob, blocked: np.ndarray | None) -> tuple[int, int]:
    with manifest.new_folder(job.folder, replace=False) as folder:
        try:
            least, rows = job.config.min_success_rate, _read_rows(job)
            counts = img2dataset_fetch.fetch_rows(job.number, rows, folder, job.config, blocked, least, job.inputs)
        except InputError as error:
            raise InputError(f"shard {job.number}: {error}") from None
        values = {
            "shard": job.number,
            "input": job.input,
            "settings": _settings(job.config),
            "rows": job.rows,
            "written": counts.datasets.total(),
            "won_back": 0,
            "failed": dict(sorted(counts.failed.items())),
            "datasets": dict(sorted(counts.datasets.items())),
            "passes": 1,
            "pictures": [IMAGES],
            "failures": FAILED,
            "outputs": {name: manifest.sha256(folder / name) for name in (IMAGES, FAILED)},
        }
        manifest.write_json(folder / manifest.NAME, values)
    values = manifest.read_json(Path(job.folder) / manifest.NAME)  # another attempt of this task may have been first
    return values["rows"], values["written"]


def _retry_round(
    job: ShardJob, round_number: int, before: dict[str, Any], blocked: np.ndarray | None
) -> tuple[int, int]:
    """Download the rows again that failed for a reason that may be temporary. `before` is the shard's manifest."""
    shard = Path(job.folder)
    failed = pq.read_table(*manifest.check_outputs(shard, [before["failures"]]))
    is_temporary = np.array([statuses.may_pass(reason) for reason in failed["cause"].to_pylist()], bool)
    with TemporaryDirectory(prefix=f".{shard.name}.", dir=shard.parent) as temporary:
        folder = Path(temporary)
        rows = failed.filter(pa.array(is_temporary)).drop_columns(["cause"])
        counts = img2dataset_fetch.fetch_rows(job.number, rows, folder, job.config, blocked, min_success_rate=0.0)
        failed = pa.concat_tables([failed.filter(pa.array(~is_temporary)), pq.read_table(folder / FAILED)])
        pq.write_table(failed.sort_by("key"), folder / FAILED)
        recovered = counts.datasets.total()
        digests = {name: manifest.sha256(folder / name) for name in (FAILED, *([IMAGES] if recovered else []))}
        new_names = {name: _name_of_round(name, round_number, digest) for name, digest in digests.items()}
        for name, new_name in new_names.items():
            os.replace(folder / name, shard / new_name)
    added = [name for name in new_names.values() if name != new_names[FAILED]]
    outputs = {name: digest for name, digest in before["outputs"].items() if name != before["failures"]}
    values = {
        **before,
        "written": before["written"] + recovered,
        "won_back": before["won_back"] + recovered,
        "failed": dict(sorted(Counter(failed["cause"].to_pylist()).items())),
        "datasets": dict(sorted((Counter(before["datasets"]) + counts.datasets).items())),
        "passes": round_number,
        "pictures": [*before["pictures"], *added],
        "failures": new_names[FAILED],
        "outputs": outputs | {new_names[name]: digest for name, digest in digests.items()},
    }
    manifest.write_json(shard / manifest.NAME, values)
    _remove_unlisted(shard)
    return recovered + counts.failed.total(), recovered


def _name_of_round(name: str, round_number: int, digest: str) -> str:
    """Return a file's name in a retry round. It depends on the content: an abandoned task overwrites no file."""
    return name.replace(".", f"-{round_number}-{digest[:8]}.")


def _remove_unlisted(shard: Path) -> None:
    """Delete the files that the manifest does not list: replaced ones, and those of a killed round."""
    values = manifest.read_json(shard / manifest.NAME)
    for file in (*shard.glob("*.parquet"), *shard.glob(".*")):
        if file.name not in values["outputs"]:
            file.unlink()


def _read_rows(job: ShardJob) -> pa.Table:
    """Return a shard's rows with their keys: the shard's number, then the row's index in the shard."""
    if manifest.sha256(job.urls) != job.input:
        raise InputError(
            f"{job.urls} is not the file that {URLS_MANIFEST} next to it lists; delete that folder and select again"
        )
    rows = pq.read_table(job.urls, schema=schema.URL_SCHEMA)
    keys = [f"{job.number:0{SHARD_DIGITS}d}{index:0{job.key_digits}d}" for index in range(len(rows))]
    return rows.append_column("key", pa.array(keys, pa.string()))
