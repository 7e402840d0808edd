"""Tables of image URLs and captions: parquet, csv, tsv or jsonl, one file or a folder, local or in object storage.

For every format `read` yields record batches with two string columns, url and caption, and the metadata columns that
the conditions need, in the table's own order and with one batch in memory at a time. An error in a table is an
InputError that names the file or the column; an unreadable row of a text file (csv, tsv, jsonl) is counted and skipped.

table_files.py finds the files, table_formats.py reads them.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf.errors import OmegaConfBaseException

from emage.config import IngestConfig, SourceConfig, preset
from emage.config import check as check_config
from emage.config.cli import override_error
from emage.config.presets import PRESETS
from emage.data.ingest import table_files, table_formats, url_filter
from emage.utils import storage
from emage.utils.errors import InputError
from emage.utils.redact import redact_settings

METADATA_PREFIX = "meta."  # of column names, so that a metadata column may be called url or caption as well
PART_ROWS = 1_000_000  # of a parquet file, read by one task


@dataclass(frozen=True)
class TablePart:
    """The part of a table that one task reads: a whole file of text, or some row groups of a parquet file."""

    file: str
    row_groups: tuple[int, ...] | None = None  # None: all


def list_tables(config: IngestConfig) -> list[SourceConfig]:
    """Return the tables of an ingest: `source`, then those of `more`.

    A table of `more` has the column names of the preset that it is named after, if there is one. The paths are
    absolute, because the workers of a cluster have another working folder.

    Raises:
        InputError: A table of `more` has no path or an unknown key, or two tables have the same name.
    """
    tables = [config.source]
    for name, values in config.more.items():
        if not isinstance(values, dict) or "table" not in values:
            raise InputError(f"more.{name}: set more.{name}.table=... (and the other keys of source that differ)")
        preset_name = name if "IngestConfig" in PRESETS.get(name, {}) else None
        try:
            source = preset(IngestConfig, preset_name, output="", source={"dataset": name, **values}).source
        except OmegaConfBaseException as error:
            key = (getattr(error, "full_key", None) or "source").removeprefix("source.")
            message = override_error(SourceConfig, error, key, values.get(key))
            raise InputError(f"more.{name}.{message}") from None
        check_config(source, prefix=f"more.{name}.")
        tables.append(source)
    names = [source.dataset for source in tables]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two tables are called {twice[0]!r}; give one another source.dataset")
    return [replace(source, table=storage.absolute(source.table)) for source in tables]


def split(config: SourceConfig) -> list[TablePart]:
    """Return the parts of a table, of about PART_ROWS rows each; a text file is one part, whatever its size."""
    filesystem, files = table_files.find_files(config)
    parts: list[TablePart] = []
    for file in files:
        if table_files.format_of(config, file) != "parquet":
            parts.append(TablePart(file))
            continue
        groups: list[int] = []
        rows = 0
        with table_files.explain_read_errors(config, file):
            metadata = pq.read_metadata(file, filesystem=filesystem)
        for group in range(metadata.num_row_groups):
            groups, rows = [*groups, group], rows + metadata.row_group(group).num_rows
            if rows >= PART_ROWS:
                parts.append(TablePart(file, tuple(groups)))
                groups, rows = [], 0
        parts += [TablePart(file, tuple(groups))] if groups else []
    return parts


def read(
    config: SourceConfig, part: TablePart | None = None, bad: Counter[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield non-empty record batches of a table or of one part.

    Args:
        config: The table.
        part: One of `split`; None: the whole table.
        bad: The counter of the rows of text files that cannot be read; they are added to it as "bad_row".

    Yields:
        Batches with the columns url (null if missing), caption ("" if missing) and, named METADATA_PREFIX + name,
        the columns of `where` and `md5`. Bytes that are not UTF-8 become U+FFFD.
    """
    bad = Counter() if bad is None else bad
    if part is None:
        filesystem, files = table_files.find_files(config)
    else:
        filesystem, files = storage.find(config.table)[0], [part.file]
    columns = list(dict.fromkeys((config.url, *config.caption, *_metadata_columns(config))))
    for file in files:
        with table_files.explain_read_errors(config, file):
            groups = part and part.row_groups
            for batch in table_formats.read_file(config, filesystem, file, columns, groups, bad):
                if len(batch):
                    yield _converted(config, batch)


def check(config: SourceConfig) -> None:
    """Raise InputError if the table is missing, unreadable, empty, or lacks a column that the settings name."""
    table, bad = redact_settings(config.table), Counter[str]()
    first = next(read(config, bad=bad), None)
    if first is None and bad:
        raise InputError(f"{table}: no row has as many columns as there are names (source.names, source.format)")
    if first is None:
        raise InputError(f"{table}: the table has no rows")
    for condition in parse_conditions(config):
        values = first[METADATA_PREFIX + condition.column]
        name, where = repr(condition.column), f"(source.where: {condition.text})"
        try:
            condition.holds(values)
        except pa.ArrowException:
            raise InputError(f"{table}: {name} holds {values.type}, which cannot be compared {where}") from None
        if isinstance(condition.value, float) and url_filter.lacks_numbers(values):
            raise InputError(f"{table}: {name} holds no numbers {where}")


def list_file_sizes(config: SourceConfig) -> list[list[Any]]:
    """Return [name, bytes] of each file: enough to notice that a table has changed."""
    filesystem, files = table_files.find_files(config)
    return [[PurePosixPath(info.path).name, info.size] for info in filesystem.get_file_info(files)]


def count_rows(config: SourceConfig) -> int:
    """Return the number of rows: exact for parquet; for text the lines, too many if captions have line breaks."""
    filesystem, files = table_files.find_files(config)
    total = 0
    for file in files:
        with table_files.explain_read_errors(config, file):
            total += table_formats.count_rows(config, filesystem, file)
    return total


def parse_conditions(config: SourceConfig) -> list[url_filter.Condition]:
    """Return the conditions of source.where. Raise InputError if one cannot be parsed."""
    return [url_filter.parse_condition(text) for text in config.where]


def _metadata_columns(config: SourceConfig) -> list[str]:
    return [*(condition.column for condition in parse_conditions(config)), *([config.md5] if config.md5 else [])]


def _converted(config: SourceConfig, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a file's batch with the columns and types that `read` promises."""
    columns = {"url": _text(batch.column(config.url)), "caption": _captions(config, batch)}
    columns |= {METADATA_PREFIX + name: _values(batch.column(name)) for name in _metadata_columns(config)}
    return pa.record_batch(columns)


def _values(column: pa.Array) -> pa.Array:
    """Return a dictionary column as its values, bytes as text, any other column as it is."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return _text(column) if pa.types.is_binary(column.type) else column


def _text(column: pa.Array) -> pa.Array:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:  # bytes that are not UTF-8
        return pa.array((v if v is None else v.decode(errors="replace") for v in column.to_pylist()), pa.string())


def _captions(config: SourceConfig, batch: pa.RecordBatch) -> pa.Array:
    if len(config.caption) == 1 and not config.unquote:
        return _text(batch.column(config.caption[0])).fill_null("")
    texts = [_text(batch.column(column)).to_pylist() for column in config.caption]
    joined = (" ".join(filter(None, parts)) for parts in zip(*texts, strict=True))
    return pa.array((unquote_plus(text) if config.unquote else text for text in joined), pa.string())
