"""URL table -> image shards: img2dataset's Downloader in a Ray task of ours per shard. Nothing else knows img2dataset.

What is img2dataset's: the loop over a shard's rows with its threads and its bound on pictures in memory, the checksum
of the bytes, the reading of opt-out headers. What is ours, because the web is slow, hostile and rotten: how a URL is
fetched (emage.fetch), how bytes become a picture (emage.pictures), and the files, in the table's order whatever came
first.

A shard is a folder `shards/NNNNN`: `pictures.parquet` (schema.PICTURE), `failed.parquet` (every other row with its
cause), `NNNNN_stats.json` (img2dataset's own) and `manifest.json`. It is written under another name and renamed last.
"""

import importlib
import importlib.util
import io
import os
import sys
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

import emage
from emage import fetch, manifest, pictures, schema, sources
from emage.config import DownloadConfig, SourceConfig
from emage.errors import InputError
from emage.on_ray import tasks

OPT_OUT = {"noai", "noimageai", "noindex", "noimageindex"}  # of the X-Robots-Tag header
PICTURES, FAILED = "pictures.parquet", "failed.parquet"
SHARD_DIGITS = 5
ROW_GROUP = 1_000
FAILED_SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "dataset", "url", "caption", "cause")])

# What to try when most of a shard failed for one cause.
HINTS = {
    "dns_error": "the resolver is down or overloaded; run a local one or lower download.threads",
    "timeout": "the network is saturated or cut off; lower download.threads or raise download.timeout_s",
    "connection_error": "the network or the server is down",
    "private_address": "the hosts are private; download.allow_private_hosts=true if that is meant",
}


def run(source: SourceConfig, config: DownloadConfig, folder: Path) -> dict[str, Any]:
    """Downloads every shard of the table that `folder` does not hold yet. Returns the stage's manifest."""
    folder.mkdir(exist_ok=True)
    manifest.remove_leftovers(folder)
    done: list[dict[str, Any]] = []
    at_once = config.shards_in_flight or max(1, int(ray.cluster_resources().get("CPU", 1)) // 2)
    with tasks.bar("download", sources.count(source), "rows") as bar:
        for shard in tasks.run(_missing(source, config, folder, done), at_once):
            done.append(shard)
            rows = sum(shard["rows"] for shard in done)
            bar.set_postfix_str(f"{sum(shard['written'] for shard in done) / rows:.1%} arrived", refresh=False)
            bar.update(rows - bar.n)
    failed: Counter[str] = Counter()
    for shard in done:
        failed.update(shard["failed"])
    values = {
        "shards": len(done),
        "rows": sum(shard["rows"] for shard in done),
        "written": sum(shard["written"] for shard in done),
        "failed": dict(sorted(failed.items())),
        "source": sources.describe(source),
    }
    manifest.write_json(folder / manifest.NAME, values)
    return values


def finished(folder: Path) -> dict[str, Any] | None:
    """The stage's manifest where every shard of it is there, else None."""
    values = manifest.read_json(folder / manifest.NAME)
    if values is None or any(shard_manifest(folder, number) is None for number in range(values["shards"])):
        return None
    return values


def shard_folder(folder: Path, number: int) -> Path:
    return folder / f"{number:0{SHARD_DIGITS}d}"


def shard_manifest(folder: Path, number: int) -> dict[str, Any] | None:
    """A shard's manifest, or None where the shard is not there."""
    return manifest.read_json(shard_folder(folder, number) / manifest.NAME)


def picture_files(folder: Path, number: int) -> list[Path]:
    """The parquet files (schema.PICTURE) of an image shard: that of the first pass, then those of later ones."""
    shard = shard_manifest(folder, number)
    assert shard is not None, f"image shard {number} went away"
    return [shard_folder(folder, number) / name for name in shard["pictures"]]


def content(folder: Path, number: int) -> str:
    """Fingerprint of an image shard's pictures: what a tokenized shard is made from."""
    shard = shard_manifest(folder, number)
    assert shard is not None, f"image shard {number} went away"
    return manifest.fingerprint([shard["outputs"][name] for name in shard["pictures"]])


def _missing(source: SourceConfig, config: DownloadConfig, folder: Path, done: list[dict[str, Any]]) -> Iterator[Any]:
    """One call for each shard that is missing; the manifests of the others go to `done`."""
    for number, rows in enumerate(sources.read(source, config.shard_rows)):
        rows = rows.append_column("dataset", pa.array([source.dataset] * len(rows)))
        fingerprint = manifest.fingerprint(rows.to_pydict())
        shard = shard_manifest(folder, number)
        if shard is None:
            job = Job(number, fingerprint, config, str(shard_folder(folder, number)))
            yield lambda job=job, rows=rows: _download.remote(job, rows)
        elif shard["input"] != fingerprint:
            raise InputError(
                f"{shard_folder(folder, number)} was downloaded from other rows than {source.table} holds now; "
                "choose another output= or delete the folder"
            )
        else:
            done.append(shard)


# --- On the worker ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    number: int
    input: str  # fingerprint of the rows
    config: DownloadConfig
    folder: str


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _download(job: Job, rows: pa.Table) -> dict[str, Any]:
    """One shard; returns its manifest."""
    with manifest.new_folder(job.folder) as folder:
        causes = _with_img2dataset(job, rows, folder)
        written = len(rows) - causes.total()
        _check_rate(job, written, causes)
        values = {
            "shard": job.number,
            "input": job.input,
            "rows": len(rows),
            "written": written,
            "failed": dict(sorted(causes.items())),
            "pictures": [PICTURES],
            "outputs": {name: manifest.sha256(folder / name) for name in (PICTURES, FAILED)},
        }
        manifest.write_json(folder / manifest.NAME, values)
    return values


def _with_img2dataset(job: Job, rows: pa.Table, folder: Path) -> Counter[str]:
    """Runs img2dataset's Downloader on one shard, with our parts in it. Returns how many rows failed, by cause."""
    config, downloader = job.config, _downloader_module()
    rows_file = folder / "rows.arrow"  # the Downloader deletes it
    with pa.ipc.new_file(rows_file, rows.schema) as file:
        file.write_table(rows)
    shards: list[_ShardFiles] = []

    def shard_files(*args: Any) -> "_ShardFiles":
        shards.append(_ShardFiles(*args))
        return shards[0]

    # The one place where its own fetching is replaced: it looks this name up in its module for every row.
    downloader.download_image_with_retry = _fetcher(config, downloader.is_disallowed)
    downloader.Downloader(
        sample_writer_class=shard_files,
        resizer=_squarer(config),
        thread_count=config.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(folder),
        column_list=rows.schema.names,
        timeout=config.timeout_s,
        number_sample_per_shard=config.shard_rows,
        oom_shard_count=SHARD_DIGITS,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=config.retries,
        user_agent_token=config.user_agent_token,
        disallowed_header_directives=OPT_OUT,
    ).download_shard((job.number, str(rows_file)))
    return shards[0].check(len(rows))


def _downloader_module() -> Any:
    """img2dataset.downloader without the rest of its package.

    The package's `__init__` imports every part, with torch, albumentations and OpenCV: 7 s and 500 MB for each worker.
    """
    if "img2dataset" not in sys.modules:
        spec = importlib.util.find_spec("img2dataset")
        assert spec is not None and spec.submodule_search_locations is not None
        package = types.ModuleType("img2dataset")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["img2dataset"] = package
    return importlib.import_module("img2dataset.downloader")


def _fetcher(config: DownloadConfig, is_disallowed: Any) -> Any:
    limits = fetch.Limits(
        timeout_s=config.timeout_s,
        max_bytes=config.max_bytes,
        allow_private_hosts=config.allow_private_hosts,
        user_agent=f"Mozilla/5.0 (compatible; {config.user_agent_token}/{emage.__version__})",
    )

    def fetch_row(row, timeout, retries, user_agent_token, disallowed_header_directives):
        """(place in the shard, URL) -> (place, bytes or None, cause or None), as img2dataset wants it."""
        place, url = row
        try:
            data = fetch.fetch_with_retries(
                url,
                limits,
                lambda headers: is_disallowed(headers, user_agent_token, disallowed_header_directives),
                retries,
            )
            return place, io.BytesIO(data), None
        except fetch.FetchError as error:
            return place, None, error.cause

    return fetch_row


def _squarer(config: DownloadConfig) -> Any:
    def square(stream: io.BytesIO, _: None):
        """Bytes -> (JPEG, width, height, width and height as downloaded, cause), as img2dataset wants it."""
        size = config.image_size
        try:
            picture = pictures.square(
                stream.getvalue(), size, min_size=config.min_image_size, max_pixels=config.max_image_pixels
            )
            return picture.jpeg, size, size, picture.width, picture.height, None
        except pictures.PictureError as error:
            return None, None, None, None, None, error.cause

    return square


class _ShardFiles:
    """What img2dataset calls a sample writer: takes rows as they come, leaves files in the table's order.

    JPEGs wait in a file, not in memory: 10,000 of them are 400 MB.
    """

    def __init__(self, shard_id: int, folder: str, *_: object):
        self.folder = Path(folder)
        self.spool = open(self.folder / "spool", "w+b")  # noqa: SIM115 (closed in `close`)
        self.rows: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def write(self, jpeg: bytes | None, key: str, caption: str | None, row: dict[str, Any]) -> None:
        try:
            start = self.spool.tell()
            self.spool.write(jpeg or b"")
            self.rows.append({**row, "start": start, "size": len(jpeg or b"")})
        except OSError as error:  # the caller prints and goes on; a full disk must not become a hole
            self.error = self.error or error
            raise

    def close(self) -> None:
        self.rows.sort(key=lambda row: int(row["key"]))
        arrived = [row for row in self.rows if row["status"] == "success"]
        with pq.ParquetWriter(self.folder / PICTURES, schema.PICTURE, compression="none") as file:
            for start in range(0, len(arrived), ROW_GROUP):
                group = [self._picture(row) for row in arrived[start : start + ROW_GROUP]]
                file.write_table(pa.Table.from_pylist(group, schema.PICTURE))
        failed = [{**row, "cause": row["error_message"]} for row in self.rows if row["status"] != "success"]
        pq.write_table(pa.Table.from_pylist(failed, FAILED_SCHEMA), self.folder / FAILED)
        self.spool.close()
        os.unlink(self.spool.name)

    def check(self, rows: int) -> Counter[str]:
        """How many rows failed, by cause. Raises where not every row is accounted for."""
        if self.error is not None:
            raise self.error
        if len(self.rows) != rows:
            raise RuntimeError(f"{rows} rows went in, {len(self.rows)} came out; the worker's log says more")
        return Counter(row["error_message"] for row in self.rows if row["status"] != "success")

    def _picture(self, row: dict[str, Any]) -> dict[str, Any]:
        self.spool.seek(row["start"])
        image = self.spool.read(row["size"])
        return {**row, "image": image, "width": row["original_width"], "height": row["original_height"]}


def _check_rate(job: Job, written: int, causes: Counter[str]) -> None:
    """InputError where too few pictures arrived: better no shard than one that a broken resolver emptied."""
    rows = written + causes.total()
    if written >= job.config.min_success_rate * rows:
        return
    cause, count = causes.most_common(1)[0]
    raise InputError(
        f"shard {job.number}: {written} of {rows} pictures arrived, under download.min_success_rate="
        f"{job.config.min_success_rate}; {count} failed with {cause}{': ' + HINTS[cause] if cause in HINTS else ''}"
    )
