"""Rows of a shard -> pictures.parquet and failed.parquet, by img2dataset's Downloader. Only this file uses img2dataset.

img2dataset provides the loop over the rows with its threads and its limit on images in memory, and the checksum of the
bytes. This package replaces the rest, because the web is slow, hostile and full of dead links: where the bytes come
from (image_bytes.py), the limit on bytes in memory, the decoding (emage.data.images.decode_image), the decision to stop
if too few images arrive (success_rate.py), and the files, whose rows are in the order of the shard.
"""

import hashlib
import importlib
import importlib.util
import io
import os
import sys
import threading
import types
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emage.config import DownloadConfig, SourceConfig
from emage.data import schema
from emage.data.images import decode_image
from emage.data.ingest.download.fetch_error import FetchError
from emage.data.ingest.download.memory_budget import MemoryBudget, Share, return_freed_bodies
from emage.on_ray.ingest.download import image_bytes
from emage.on_ray.ingest.download.image_shards import FAILED, IMAGES, SHARD_DIGITS
from emage.on_ray.ingest.download.success_rate import SuccessRate
from emage.utils.errors import InputError

BODY_BYTES = 500_000_000  # of large bodies in memory at a time, for all threads of a shard
ROW_GROUP_ROWS = 1_000
ROW_KEY = "row_key"  # the name of a row's key inside img2dataset, which makes keys of its own
WINDOW_ROWS = 1_000  # over which the success rate is measured


@dataclass(frozen=True)
class FetchCounts:
    """The numbers of rows that failed and of images that arrived."""

    failed: Counter[str]  # rows by drop reason
    datasets: Counter[str]  # images by data set


def fetch_rows(
    number: int,
    rows: pa.Table,
    folder: Path,
    config: DownloadConfig,
    blocked: np.ndarray | None,
    min_success_rate: float,
    inputs: Sequence[SourceConfig] = (),
) -> FetchCounts:
    """Download rows, and write IMAGES, FAILED and img2dataset's own `NNNNN_stats.json` into a folder.

    Args:
        number: The shard's number.
        rows: With the columns of schema.DROPPED_SCHEMA except `cause`, and `address` if images are stored.
        folder: Where the files are written.
        config: The settings.
        blocked: (n,) uint64, sorted: see `is_blocked`.
        min_success_rate: Minimum fraction of images among the last WINDOW_ROWS rows (or all, if they are fewer).
        inputs: Of the ingest, resolved: the stored images are read from these.

    Raises:
        InputError: The fraction is lower, or the storage of an input fails; the other rows are not read.
    """
    return_freed_bodies()
    downloader = _import_downloader()
    rows = rows.rename_columns({"key": ROW_KEY})
    rows_file = folder / "rows.arrow"  # the Downloader deletes it
    with pa.OSFile(str(rows_file), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as file:
        file.write_table(rows)
    stop = threading.Event()
    files = _SampleWriter(folder, SuccessRate(min(WINDOW_ROWS, len(rows)), min_success_rate), stop)
    # Replaces img2dataset's own download: it looks this name up in its module for every row.
    downloader.download_image_with_retry = _make_fetcher(
        image_bytes.make_reader(config, rows, inputs), config, blocked, files
    )
    downloader.Downloader(
        sample_writer_class=lambda *_: files,
        resizer=_make_resizer(config),
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
        disallowed_header_directives=None,
    ).download_shard((number, str(rows_file)))
    files.check(len(rows))
    return FetchCounts(files.failed, files.datasets)


def _import_downloader() -> Any:
    """Import img2dataset.downloader without the rest of its package.

    The package's `__init__` imports every part, with torch, albumentations and OpenCV: 7 s and 500 MB per worker.
    """
    if "img2dataset" not in sys.modules:
        spec = importlib.util.find_spec("img2dataset")
        assert spec is not None and spec.submodule_search_locations is not None
        package = types.ModuleType("img2dataset")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["img2dataset"] = package
    return importlib.import_module("img2dataset.downloader")


def _make_fetcher(
    read: image_bytes.ReadRow, config: DownloadConfig, blocked: np.ndarray | None, files: "_SampleWriter"
) -> Any:
    budget = MemoryBudget(max(BODY_BYTES, 2 * config.max_bytes))

    def fetch_row(row, timeout, retries, user_agent_token, disallowed_header_directives):
        """Read one row's image, as img2dataset calls it: (index, URL) -> (index, file or None, drop reason or None)."""
        index, url = row
        if files.stop.is_set():
            return index, None, "stopped"
        memory = Share(budget)
        try:
            data = read(index, url, memory)
        except FetchError as error:
            return index, None, error.reason
        except Exception as error:  # of a storage: every other row would fail as well
            files.fail(error)
            return index, None, "stopped"
        if blocked is not None and is_blocked(data, blocked):
            memory.keep(0)
            return index, None, "blocked_md5"
        return index, _Body(data, memory), None

    return fetch_row


class _Body(io.BytesIO):
    """A body in memory, which gives its share of the budget back when img2dataset closes it."""

    def __init__(self, data: bytes, memory: Share):
        super().__init__(data)
        self.memory = memory

    def close(self) -> None:
        super().close()
        self.memory.keep(0)


def is_blocked(data: bytes, blocked: np.ndarray) -> bool:
    """Return True if the first 8 bytes of the md5 of `data` are in `blocked` (n,) uint64, sorted."""
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    value = np.uint64(int.from_bytes(digest[:8], "big"))
    index = int(np.searchsorted(blocked, value))
    return index < len(blocked) and blocked[index] == value


def _make_resizer(config: DownloadConfig) -> Any:
    def resize(stream: io.BytesIO, _: None):
        """Decode and resize one image, as img2dataset calls it.

        Returns (JPEG, width, height, width as downloaded, height as downloaded, drop reason); missing values are None.
        """
        size = config.image_size
        try:
            image = decode_image.make_square_jpeg(
                stream.getvalue(), size, min_size=config.min_image_size, max_pixels=config.max_image_pixels
            )
            return image.jpeg, size, size, image.width, image.height, None
        except decode_image.ImageError as error:
            return None, None, None, None, None, error.reason

    return resize


class _SampleWriter:
    """img2dataset's interface SampleWriter: it takes rows as they arrive and writes them in the order of the shard.

    JPEGs wait in a temporary file, not in memory: 10,000 of them are 400 MB. An error sets `stop`, so that the rest of
    the rows is not downloaded; img2dataset would print the error and continue.
    """

    def __init__(self, folder: Path, rate: SuccessRate, stop: threading.Event):
        self.folder, self.rate, self.stop = folder, rate, stop
        self.spool = open(folder / "spool", "w+b")  # noqa: SIM115 (closed in `close`)
        self.rows: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.failed: Counter[str] = Counter()  # rows by drop reason
        self.datasets: Counter[str] = Counter()  # images by data set

    def write(self, jpeg: bytes | None, key: str, caption: str | None, row: dict[str, Any]) -> None:
        """Take one row; `jpeg` is None if it has no image."""
        if self.stop.is_set():
            return
        try:
            start = self.spool.tell()
            self.spool.write(jpeg or b"")
        except OSError as error:  # without this, a full disk would drop rows silently
            self.fail(error)
            return
        reason = row["error_message"]
        self.rows.append({**row, "key": row[ROW_KEY], "cause": reason, "start": start, "size": len(jpeg or b"")})
        if reason is None:
            self.datasets[row["dataset"]] += 1
        else:
            self.failed[reason] += 1
        self.rate.add(reason)
        if self.rate.is_too_low:
            self.stop.set()

    def fail(self, error: Exception) -> None:
        """End the shard with an error."""
        self.error = error
        self.stop.set()

    def close(self) -> None:
        """Write the files, unless the download was stopped."""
        with self.spool:
            if not self.stop.is_set():
                self._write_files()
        os.unlink(self.spool.name)

    def check(self, num_rows: int) -> None:
        """Raise an error if a row is missing: an InputError if the success rate was too low."""
        if self.error is not None:
            raise self.error
        if self.stop.is_set():
            raise InputError(self.rate.explain())
        if len(self.rows) != num_rows:
            raise RuntimeError(f"img2dataset returned {len(self.rows)} of {num_rows} rows; the worker's log has more")

    def _write_files(self) -> None:
        self.rows.sort(key=lambda row: row["key"])
        arrived = [row for row in self.rows if row["cause"] is None]
        with pq.ParquetWriter(self.folder / IMAGES, schema.IMAGE_SCHEMA, compression="none") as file:
            for start in range(0, len(arrived), ROW_GROUP_ROWS):
                group = [self._image(row) for row in arrived[start : start + ROW_GROUP_ROWS]]
                file.write_table(pa.Table.from_pylist(group, schema.IMAGE_SCHEMA))
        failed = [row for row in self.rows if row["cause"] is not None]
        pq.write_table(pa.Table.from_pylist(failed, schema.DROPPED_SCHEMA), self.folder / FAILED)

    def _image(self, row: dict[str, Any]) -> dict[str, Any]:
        self.spool.seek(row["start"])
        image = self.spool.read(row["size"])
        return {**row, "image": image, "width": row["original_width"], "height": row["original_height"]}
