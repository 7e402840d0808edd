"""Parquet files with the bytes of images in a column, as the Hugging Face hub has them, local or in object storage.

The column `image` (source.image) holds files: a struct with the fields bytes and path, or bytes. Every row is one
entry; its address is `ROW#FILE`.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from emage.config import SourceConfig
from emage.data import table_check
from emage.data.images import parquet_images
from emage.data.ingest import url_table
from emage.data.ingest.download.fetch_error import FetchError
from emage.data.ingest.sources.base import NO_IMAGE, OpenImage, Reserve, caption_columns
from emage.data.ingest.tables import column_values, parquet_batches, table_files
from emage.data.ingest.tables.table_files import TableFiles
from emage.data.ingest.url_table import METADATA_PREFIX, TablePart, metadata_columns
from emage.utils import storage
from emage.utils.errors import InputError
from emage.utils.redact import redact

OTHER_COLUMNS = ("img", "jpg", "png", "webp", "image_bytes", "bytes")  # names of source.image, if none is set
GROUP_ROWS = 1_000  # that stay together in one shard, if a row group has more
LATE_ROWS = 128  # that are kept behind the last batch: img2dataset's threads are so far apart


def image_column(config: SourceConfig, schema: pa.Schema) -> str | None:
    """Return the column with images: source.image or, if that was left alone, the first usual name; None if none is."""
    names = (config.image, *(OTHER_COLUMNS if config.image == SourceConfig.image else ()))
    found = (name for name in names if name in schema.names and parquet_images.holds_bytes(schema.field(name).type))
    return next(found, None)


def find_files(config: SourceConfig) -> TableFiles:
    """Return the parquet files: one, those of a folder, or those that braces name."""
    return table_files.find_files(_as_table(config))


def check(config: SourceConfig) -> None:
    """Raise InputError if a file lacks the column of the image or of the caption."""
    table = find_files(config)
    for path in table.paths:
        with table_files.explain_read_errors(_as_table(config), path):
            _resolve(config, path, pq.read_schema(path, filesystem=table.filesystem))


def split(config: SourceConfig, table: TableFiles) -> list[TablePart]:
    """Return the parts of the files, by row groups."""
    return url_table.split(_as_table(config), table)


def read(
    config: SourceConfig, part: TablePart | None = None, bad: Counter[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a part without the images; see SourceModule."""
    assert part is not None
    filesystem = storage.find(config.table)[0]
    with table_files.explain_read_errors(_as_table(config), part.file):
        metadata = pq.read_metadata(part.file, filesystem=filesystem)
        schema = metadata.schema.to_arrow_schema()
        image, config = _resolve(config, part.file, schema)
        columns = [*config.caption, *metadata_columns(config), *([config.url] if config.url in schema.names else [])]
        if pa.types.is_struct(schema.field(image).type) and schema.field(image).type.get_field_index("path") >= 0:
            columns.append(f"{image}.path")
        columns, starts = list(dict.fromkeys(columns)), _first_rows(metadata)
        for group in part.row_groups or range(metadata.num_row_groups):
            row = int(starts[group])
            for batch in parquet_batches.read_batches(filesystem, part.file, columns, (group,)):
                yield _convert(config, batch, image, part.name, group, row, int(starts[group]))
                row += len(batch)


def survey(config: SourceConfig, file: str) -> dict[str, Any]:
    """Return the rows by the footer, and the digest of the footer: it has sizes, places and bounds of all values."""
    filesystem = storage.find(config.table)[0]
    with table_files.explain_read_errors(_as_table(config), file):
        rows = pq.read_metadata(file, filesystem=filesystem).num_rows
        return {"rows": rows, "sha256": table_check.footer_sha256(file, filesystem)}


def open_images(config: SourceConfig) -> OpenImage:
    """Return the function that reads the image of a row."""
    return _Cells(config).read


def _as_table(config: SourceConfig) -> SourceConfig:
    return replace(config, format="parquet")


def _resolve(config: SourceConfig, file: str, schema: pa.Schema) -> tuple[str, SourceConfig]:
    """Return the column of the image, and the settings with those of the caption. Raise InputError if one lacks."""
    image = image_column(config, schema)
    if image is None:
        has = ", ".join(f"{field.name} ({field.type})"[:80] for field in list(schema)[:20])
        raise InputError(
            f"{redact(file)}: no column {config.image!r} with images' bytes (source.image) (it has: {has})"
        )
    settings = replace(config, caption=caption_columns(config, schema.names))
    column_values.check_names(settings, redact(file), schema.names, [*settings.caption, *metadata_columns(settings)])
    column_values.check_types(settings, redact(file), schema)
    return image, settings


def _convert(
    config: SourceConfig, batch: pa.RecordBatch, image: str, file: str, group: int, row: int, first: int
) -> pa.RecordBatch:
    """Return a file's batch, which begins at `row` of the file, as a batch of `read`; its group begins at `first`."""
    numbers = range(row, row + len(batch))
    urls: Iterable[str | None] = [None] * len(batch)
    if image in batch.schema.names:
        urls = batch.column(image).field("path").to_pylist()
    if config.url in batch.schema.names:
        known = column_values.texts(batch.column(config.url), url_table.MAX_URL).to_pylist()
        urls = [one or other for one, other in zip(known, urls, strict=True)]
    columns = {
        "url": pa.array([url or f"{file}#{n}" for url, n in zip(urls, numbers, strict=True)], pa.string()),
        "caption": url_table.captions(config, batch),
        "address": pa.array([f"{n}#{file}" for n in numbers], pa.string()),
        "group": pa.array([f"{file} {group} {(n - first) // GROUP_ROWS}" for n in numbers], pa.string()),
    }
    columns |= {METADATA_PREFIX + name: column_values.metadata(batch.column(name)) for name in metadata_columns(config)}
    return pa.record_batch(columns)


def _first_rows(metadata: pq.FileMetaData) -> np.ndarray:
    """Return (num_row_groups + 1,): the number of rows before each row group, and of all."""
    return np.cumsum([0, *(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))])


class _File(NamedTuple):
    path: str
    column: str  # the leaf with the bytes
    starts: np.ndarray  # see _first_rows


class _Batch(NamedTuple):
    name: str  # of its file
    start: int  # its first row in the file
    images: pa.Array

    def has(self, name: str, row: int) -> bool:
        return self.name == name and self.start <= row < self.start + len(self.images)


class _Cells:
    """Reads images of parquet files: row groups from their first row on, by one thread at a time.

    Many threads ask for rows, nearly in the order of the file. The last batches are kept for those that come late.
    """

    def __init__(self, config: SourceConfig):
        self.config = config
        self.filesystem, self.folder = table_files.open_folder(config)
        self.lock = Lock()
        self.files: dict[str, _File] = {}
        self.kept: deque[_Batch] = deque()
        self.place = ("", -1)  # the file and the row group of `batches`
        self.batches: Iterator[_Batch] = iter(())
        self.next_row = 0  # of `batches`

    def read(self, address: str, reserve: Reserve) -> bytes:
        """Return the image of a row."""
        row, _, name = address.partition("#")
        try:
            with self.lock:
                cell = self._cell(name, int(row))
        except FileNotFoundError:
            raise FetchError(NO_IMAGE) from None
        except pa.ArrowInvalid:
            raise FetchError("unreadable_file") from None
        data = cell.as_buffer() if cell.is_valid else None
        if data is None:
            raise FetchError(NO_IMAGE)
        reserve(data.size)
        if not data.size:
            raise FetchError("empty")
        return data.to_pybytes()

    def _cell(self, name: str, row: int) -> Any:
        """Return the cell of a row. The caller has the lock."""
        batch = next((batch for batch in self.kept if batch.has(name, row)), None) or self._read_batch(name, row)
        return batch.images[row - batch.start]

    def _read_batch(self, name: str, row: int) -> _Batch:
        file = self.files.get(name) or self._open(name)
        group = int(np.searchsorted(file.starts, row, side="right")) - 1
        if self.place != (name, group) or row < self.next_row:
            self.place, self.batches = (name, group), self._read_group(name, file, group)
        for batch in self.batches:
            self.next_row = batch.start + len(batch.images)
            self.kept.append(batch)
            while sum(len(batch.images) for batch in islice(self.kept, 1, len(self.kept) - 1)) >= LATE_ROWS:
                self.kept.popleft()
            if batch.has(name, row):
                return batch
        raise FetchError(NO_IMAGE)  # the file has fewer rows than when it was listed

    def _read_group(self, name: str, file: _File, group: int) -> Iterator[_Batch]:
        row = int(file.starts[group])
        for batch in parquet_batches.read_batches(self.filesystem, file.path, [file.column], (group,), are_images=True):
            column = batch.column(0)
            yield _Batch(name, row, column.field(0) if pa.types.is_struct(column.type) else column)
            row += len(batch)

    def _open(self, name: str) -> _File:
        path = f"{self.folder}/{name}"
        metadata = pq.read_metadata(path, filesystem=self.filesystem)
        schema = metadata.schema.to_arrow_schema()
        image, _ = _resolve(self.config, path, schema)
        leaf = f"{image}.bytes" if pa.types.is_struct(schema.field(image).type) else image
        self.files[name] = _File(path, leaf, _first_rows(metadata))
        return self.files[name]
