"""The kinds of input by name, and the rules that find out which one a path is. See base.py.

| kind | what is there |
|---|---|
| table | parquet, csv, tsv, jsonl: a file, or a folder of them |
| folder | a folder with image files |
| tar | .tar archives of images: a file, a folder of them, or several by braces |
| image_parquet | parquet files with a column of images' bytes, likewise |

`read` is what the select stage calls: it makes a row of every caption.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, cast

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from emage.config import SourceConfig
from emage.data.images.file_kinds import ENDINGS
from emage.data.ingest.sources import (
    captions_beside,
    image_folder,
    image_parquet,
    several_captions,
    tar_shards,
    web_table,
)
from emage.data.ingest.sources.base import OpenImage, SourceModule, StoredModule
from emage.data.ingest.tables import table_files
from emage.data.ingest.tables.table_files import TableFiles
from emage.data.ingest.tables.text_rows import BAD_ROW
from emage.data.ingest.url_table import TablePart
from emage.utils.errors import InputError
from emage.utils.redact import redact_settings

TABLE = "table"
STORED: dict[str, StoredModule] = {  # by source.format
    "folder": cast(StoredModule, image_folder),
    "tar": cast(StoredModule, tar_shards),
    "image_parquet": cast(StoredModule, image_parquet),
}
_NAMES = {TABLE: "tables", "folder": "images", "tar": "archives"}  # for messages: what its files are


def resolve(config: SourceConfig) -> SourceConfig:
    """Return the settings with the kind of the input in `format`, if it is one of stored images.

    Raises:
        InputError: The path does not exist, or holds files of two kinds.
    """
    if config.format != "auto":
        return config
    _, root, listing = table_files.list_path(config)
    if root.type == pyarrow.fs.FileType.File:
        if root.path.lower().endswith(tar_shards.ENDING):
            return replace(config, format="tar")
        return _resolve_parquet(config)
    counts = Counter(kind for info in listing if (kind := _kind_of(table_files.relative(info.path, root.path), info)))
    if "tar" in counts:  # tables beside archives: img2dataset's
        counts.pop(TABLE, None)
    if len(counts) > 1:
        has = " and ".join(f"{count:,} files of {_NAMES[kind]}" for kind, count in sorted(counts.items()))
        raise InputError(f"{redact_settings(config.table)} has {has}: name a folder of one kind, or set source.format")
    kind = next(iter(counts), TABLE)
    return _resolve_parquet(config) if kind == TABLE else replace(config, format=kind)


def _resolve_parquet(config: SourceConfig) -> SourceConfig:
    """Return the settings of tables with the format "image_parquet", if the first is a parquet file with images."""
    table = table_files.find_files(config)
    path = table.paths[0]
    if table_files.format_of(config, path) != "parquet":
        return config
    with table_files.explain_read_errors(config, path):
        schema = pq.read_schema(path, filesystem=table.filesystem)
    return config if image_parquet.image_column(config, schema) is None else replace(config, format="image_parquet")


def _kind_of(name: PurePosixPath, info: pyarrow.fs.FileInfo) -> str:
    """Return the kind of a folder with this file in it; "" if the file says nothing of it."""
    if info.type != pyarrow.fs.FileType.File or any(part.startswith(".") for part in name.parts):
        return ""
    if name.suffix.lower() in ENDINGS:
        return "folder"
    if name.suffix.lower() == tar_shards.ENDING:
        return "tar"
    is_table = table_files.suffix_of(info.path) in table_files.FORMATS and not name.name.startswith("_")
    return TABLE if is_table and name.name not in captions_beside.TABLES else ""


def module_of(config: SourceConfig) -> SourceModule:
    """Return the module of a resolved input's kind."""
    return STORED.get(config.format, cast(SourceModule, web_table))


def find_files(config: SourceConfig) -> TableFiles:
    """Return the input's files."""
    return module_of(config).find_files(config)


def check(config: SourceConfig) -> None:
    """Raise InputError if no row can come of an input."""
    module_of(config).check(config)


def split(config: SourceConfig, table: TableFiles) -> list[TablePart]:
    """Return the parts of an input that one task each reads."""
    return module_of(config).split(config, table)


def survey(config: SourceConfig, file: str) -> dict[str, Any]:
    """Return {"rows", "sha256"} of a file: see SourceModule."""
    return module_of(config).survey(config, file)


def read(
    config: SourceConfig, part: TablePart, dropped: Counter[str], entries: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a part: one for each caption, or one for each image (source.several_captions).

    Args:
        config: The input.
        part: One of `split`.
        dropped: The counter of rows that are not in the batches, by drop reason.
        entries: The number of images, or rows of the table, that were met is added to it under the part's name. It
            must be that of `survey`.
    """
    for batch in module_of(config).read(config, part, dropped):
        entries[part.name] += len(batch)
        if len(rows := several_captions.make_rows(config, batch, dropped)):
            yield rows
    entries[part.name] += dropped[BAD_ROW]


def open_images(config: SourceConfig) -> OpenImage:
    """Return the function that reads the images of an input of stored images."""
    return STORED[config.format].open_images(config)
