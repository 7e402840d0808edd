"""Rows of URLs -> pictures.parquet and failed.parquet, by img2dataset's Downloader. Nothing else knows img2dataset.

What is img2dataset's: the loop over the rows with its threads and its bound on images in memory, the checksum of the
bytes, the reading of opt-out headers. What is ours, because the web is slow, hostile and rotten: how a URL is fetched
(emage.data.ingest.fetch), how bytes become an image (emage.data.ingest.decode_image), when so few arrive
that it is better to stop, and the files, in the rows' order whatever came first.
"""

import hashlib
import importlib
import importlib.util
import io
import os
import sys
import threading
import types
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emage.config import DownloadConfig
from emage.data import schema
from emage.data.ingest import decode_image, fetch
from emage.data.ingest.drop_reasons import explain
from emage.utils.errors import InputError
from emage.version import __version__

OPT_OUT = {"noai", "noimageai", "noindex", "noimageindex"}  # of the X-Robots-Tag header
IMAGES, FAILED = "pictures.parquet", "failed.parquet"
FAILED_SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "dataset", "url", "caption", "cause")])
SHARD_DIGITS = 5
ROW_GROUP = 1_000
KEY = "row_key"  # what a row's key is called on its way through img2dataset, which makes keys of its own
WINDOW = 1_000  # rows over which the success rate is judged

DNS_SHARE = 0.2  # of the failures: from here on names are the first suspect, whatever failed more often


@dataclass(frozen=True)
class Outcome:
    failed: Counter[str]  # rows by cause
    datasets: Counter[str]  # images by data set


def fetch_rows(
    number: int,
    rows: pa.Table,
    folder: Path,
    config: DownloadConfig,
    blocked: np.ndarray | None,
    min_success_rate: float,
) -> Outcome:
    """Fetches `rows` (FAILED_SCHEMA without the cause) and leaves IMAGES, FAILED and img2dataset's own
    `NNNNN_stats.json` in `folder`; `number` is the shard's.

    `blocked` (n,) uint64, sorted: see `is_blocked`. Raises InputError as soon as fewer than `min_success_rate` of the
    last WINDOW rows (of all, where there are fewer) are images.
    """
    downloader = _downloader_module()
    rows = rows.rename_columns({"key": KEY})
    rows_file = folder / "rows.arrow"  # the Downloader deletes it
    with pa.OSFile(str(rows_file), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as file:
        file.write_table(rows)
    stop = threading.Event()
    files = _Files(folder, SuccessRate(min(WINDOW, len(rows)), min_success_rate), stop)
    # The one place where its own fetching is replaced: it looks this name up in its module for every row.
    downloader.download_image_with_retry = _fetcher(config, blocked, downloader.is_disallowed, stop)
    downloader.Downloader(
        sample_writer_class=lambda *_: files,
        resizer=_squarer(config),
        thread_count=config.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(folder),
        column_list=rows.schema.names,
        timeout=config.timeout_s,
        number_sample_per_shard=max(1, len(rows)),
        oom_shard_count=SHARD_DIGITS,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=config.retries,
        user_agent_token=config.user_agent_token,
        disallowed_header_directives=OPT_OUT,
    ).download_shard((number, str(rows_file)))
    files.check(len(rows))
    return Outcome(files.failed, files.datasets)


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


def _fetcher(config: DownloadConfig, blocked: np.ndarray | None, is_disallowed: Any, stop: threading.Event) -> Any:
    limits = fetch.FetchLimits(
        timeout_s=config.timeout_s,
        max_bytes=config.max_bytes,
        allow_private_hosts=config.allow_private_hosts,
        user_agent=f"Mozilla/5.0 (compatible; {config.user_agent_token}/{__version__})",
    )

    def fetch_row(row, timeout, retries, user_agent_token, disallowed_header_directives):
        """(place in the shard, URL) -> (place, bytes or None, cause or None), as img2dataset wants it."""
        place, url = row
        if stop.is_set():
            return place, None, "stopped"
        try:
            data = fetch.fetch_with_retries(
                url,
                limits,
                lambda headers: is_disallowed(headers, user_agent_token, disallowed_header_directives),
                retries,
            )
        except fetch.FetchError as error:
            return place, None, error.reason
        if blocked is not None and is_blocked(data, blocked):
            return place, None, "blocked_md5"
        return place, io.BytesIO(data), None

    return fetch_row


def is_blocked(data: bytes, blocked: np.ndarray) -> bool:
    """Whether the first 8 bytes of the md5 of `data` are in `blocked` (n,) uint64, sorted."""
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    value = np.uint64(int.from_bytes(digest[:8], "big"))
    place = int(np.searchsorted(blocked, value))
    return place < len(blocked) and blocked[place] == value


def _squarer(config: DownloadConfig) -> Any:
    def square(stream: io.BytesIO, _: None):
        """Bytes -> (JPEG, width, height, width and height as downloaded, cause), as img2dataset wants it."""
        size = config.image_size
        try:
            image = decode_image.square(
                stream.getvalue(), size, min_size=config.min_image_size, max_pixels=config.max_image_pixels
            )
            return image.jpeg, size, size, image.width, image.height, None
        except decode_image.ImageError as error:
            return None, None, None, None, None, error.reason

    return square


class SuccessRate:
    """How many of the last `size` rows became images, and why the others did not."""

    def __init__(self, size: int, least: float):
        self.least = least
        self.last: deque[str | None] = deque(maxlen=size)
        self.causes: Counter[str | None] = Counter()  # None: an image

    def add(self, cause: str | None) -> None:
        if len(self.last) == self.last.maxlen:
            self.causes[self.last[0]] -= 1
        self.last.append(cause)
        self.causes[cause] += 1

    @property
    def is_too_low(self) -> bool:
        return len(self.last) == self.last.maxlen and self.causes[None] < self.least * len(self.last)

    def explain(self) -> str:
        """What a person should know, and the likely reason."""
        causes = +Counter({cause: count for cause, count in self.causes.items() if cause is not None})
        cause, count = causes.most_common(1)[0]
        if causes["dns_error"] >= DNS_SHARE * causes.total():
            cause, count = "dns_error", causes["dns_error"]
        advice = explain("failed", cause).advice
        return (
            f"{self.causes[None]} of {len(self.last)} images arrived, under download.min_success_rate={self.least}; "
            f"{count} failed with {cause}{f': {advice}' if advice else ''}"
        )


class _Files:
    """What img2dataset calls a sample writer: takes rows as they come, leaves files in the shard's order.

    JPEGs wait in a file, not in memory: 10,000 of them are 400 MB. What goes wrong sets `stop`, which ends the rows
    that are not fetched yet at once; img2dataset would print it and go on.
    """

    def __init__(self, folder: Path, rate: SuccessRate, stop: threading.Event):
        self.folder, self.rate, self.stop = folder, rate, stop
        self.spool = open(folder / "spool", "w+b")  # noqa: SIM115 (closed in `close`)
        self.rows: list[dict[str, Any]] = []
        self.error: OSError | None = None
        self.failed: Counter[str] = Counter()  # rows by cause
        self.datasets: Counter[str] = Counter()  # images by data set

    def write(self, jpeg: bytes | None, key: str, caption: str | None, row: dict[str, Any]) -> None:
        if self.stop.is_set():
            return
        try:
            start = self.spool.tell()
            self.spool.write(jpeg or b"")
        except OSError as error:  # a full disk must not become a hole
            self.error = error
            self.stop.set()
            return
        cause = row["error_message"]
        self.rows.append({**row, "key": row[KEY], "cause": cause, "start": start, "size": len(jpeg or b"")})
        if cause is None:
            self.datasets[row["dataset"]] += 1
        else:
            self.failed[cause] += 1
        self.rate.add(cause)
        if self.rate.is_too_low:
            self.stop.set()

    def close(self) -> None:
        with self.spool:
            if not self.stop.is_set():
                self._write_files()
        os.unlink(self.spool.name)

    def check(self, rows: int) -> None:
        """Raises where not every row is accounted for: InputError where the success rate was too low."""
        if self.error is not None:
            raise self.error
        if self.stop.is_set():
            raise InputError(self.rate.explain())
        if len(self.rows) != rows:
            raise RuntimeError(f"{rows} rows went in, {len(self.rows)} came out; the worker's log says more")

    def _write_files(self) -> None:
        self.rows.sort(key=lambda row: row["key"])
        arrived = [row for row in self.rows if row["cause"] is None]
        with pq.ParquetWriter(self.folder / IMAGES, schema.IMAGE, compression="none") as file:
            for start in range(0, len(arrived), ROW_GROUP):
                group = [self._image(row) for row in arrived[start : start + ROW_GROUP]]
                file.write_table(pa.Table.from_pylist(group, schema.IMAGE))
        failed = [row for row in self.rows if row["cause"] is not None]
        pq.write_table(pa.Table.from_pylist(failed, FAILED_SCHEMA), self.folder / FAILED)

    def _image(self, row: dict[str, Any]) -> dict[str, Any]:
        self.spool.seek(row["start"])
        image = self.spool.read(row["size"])
        return {**row, "image": image, "width": row["original_width"], "height": row["original_height"]}
