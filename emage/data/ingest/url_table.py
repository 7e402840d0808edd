"""Tables of image URLs and captions: parquet, csv, tsv or jsonl, one file or a folder, local or in object storage.

For every format `read` yields record batches with two string columns, url and caption, and the metadata columns that
the conditions need, in the table's own order and with one batch in memory at a time. An error in a table is an
InputError that names the file or the column; an unreadable row of a text file (csv, tsv, jsonl) is counted and skipped.

The modules of tables/ find the files, read them, and count their rows a second time.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from omegaconf.errors import OmegaConfBaseException

from emage.config import IngestConfig, SourceConfig, preset
from emage.config import check as check_config
from emage.config.cli import override_error
from emage.config.presets import PRESETS
from emage.data.ingest import url_filter
from emage.data.ingest.captions.caption_cleaning import MAX_CHARACTERS
from emage.data.ingest.tables import column_values, table_files, table_formats
from emage.data.ingest.tables.text_rows import BAD_ROW
from emage.utils import storage
from emage.utils.errors import InputError
from emage.utils.redact import redact_settings

pc: Any = pyarrow.compute  # made at import, so that type checkers do not see its functions
METADATA_PREFIX = "meta."  # of column names, so that a metadata column may be called url or caption as well
PART_ROWS = 1_000_000  # of a parquet file, read by one task
MAX_URL = 8_192  # characters; servers take no longer one, and a row with one is a bad row
CHECKED_ROWS = 1_000_000  # of a jsonl table: a column that none of them has is taken for a misspelt name


@dataclass(frozen=True)
class TablePart:
    """The part of a table that one task reads: a whole file of text, or some row groups of a parquet file."""

    file: str
    name: str  # of the file within the table's folder
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


def split(config: SourceConfig, table: table_files.TableFiles) -> list[TablePart]:
    """Return the parts of a table, of about PART_ROWS rows each; a text file is one part, whatever its size.

    Args:
        config: The table.
        table: Its files.

    Raises:
        InputError: A parquet file cannot be read.
    """
    parts: list[TablePart] = []
    for file in table.paths:
        name = table.name_of(file)
        if table_files.format_of(config, file) != "parquet":
            parts.append(TablePart(file, name))
            continue
        groups: list[int] = []
        rows = 0
        with table_files.explain_read_errors(config, file):
            metadata = pq.read_metadata(file, filesystem=table.filesystem)
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        for group, size in enumerate(sizes):
            groups, rows = [*groups, group], rows + size
            if rows >= PART_ROWS:
                parts.append(TablePart(file, name, tuple(groups)))
                groups, rows = [], 0
        parts += [TablePart(file, name, tuple(groups))] if groups else []
    return parts


def read(
    config: SourceConfig, part: TablePart | None = None, bad: Counter[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield non-empty record batches of a table or of one part.

    Args:
        config: The table.
        part: One of `split`; None: the whole table.
        bad: The counter of the rows that cannot be read; they are added to it as "bad_row".

    Yields:
        Batches with the columns url (null if missing), caption ("" if missing; lists, if an image has several) and,
        named METADATA_PREFIX + name, the columns of `where` and `md5`. Bytes that are not UTF-8 become U+FFFD, captions
        are cut to MAX_CHARACTERS.
    """
    yield from _read(config, part, Counter() if bad is None else bad, set())


def _read(config: SourceConfig, part: TablePart | None, bad: Counter[str], seen: set[str]) -> Iterator[pa.RecordBatch]:
    if part is None:
        table = table_files.find_files(config)
        filesystem, files = table.filesystem, table.paths
    else:
        filesystem, files = storage.find(config.table)[0], [part.file]
    columns = _columns(config)
    for file in files:
        with table_files.explain_read_errors(config, file):
            groups = part and part.row_groups
            for batch in table_formats.read_file(config, filesystem, file, columns, groups, bad, seen):
                if len(converted := _converted(config, batch, bad)):
                    yield converted


def check(config: SourceConfig) -> None:
    """Raise InputError if the table is missing, unreadable, empty, or lacks a column that the settings name."""
    table, bad, seen = redact_settings(config.table), Counter[str](), set[str]()
    batches = _read(config, None, bad, seen)
    first = next(batches, None)
    if first is None and bad:
        raise InputError(f"{table}: {_all_bad(config)}")
    if first is None:
        raise InputError(f"{table}: the table has no rows")
    _check_seen(config, chain([first], batches), seen)
    for condition in parse_conditions(config):
        values = first[METADATA_PREFIX + condition.column]
        if isinstance(condition.value, float) and url_filter.lacks_numbers(values):
            name, where = repr(condition.column), f"(source.where: {condition.text})"
            raise InputError(f"{table}: {name} holds no numbers {where}")


def _all_bad(config: SourceConfig) -> str:
    """Return the reason why a table may have no row that can be read."""
    file = table_files.find_files(config).paths[0]
    if table_files.format_of(config, file) == "jsonl":
        return "not a JSON object in any line; jsonl has one object per line (source.format)"
    return "no row has as many columns as there are names (source.names, source.format)"


def _check_seen(config: SourceConfig, batches: Iterator[pa.RecordBatch], seen: set[str]) -> None:
    """Raise InputError if a column is in none of the first CHECKED_ROWS rows. Reads on until each was found."""
    columns, rows = _columns(config), 0
    for batch in batches:
        rows += len(batch)
        if seen.issuperset(columns):
            return
        if rows >= CHECKED_ROWS:
            break
    column_values.check_names(config, redact_settings(config.table), sorted(seen), columns)


def parse_conditions(config: SourceConfig) -> list[url_filter.Condition]:
    """Return the conditions of source.where. Raise InputError if one cannot be parsed."""
    return [url_filter.parse_condition(text) for text in config.where]


def metadata_columns(config: SourceConfig) -> list[str]:
    """Return the columns of source.where and source.md5."""
    return [*(condition.column for condition in parse_conditions(config)), *([config.md5] if config.md5 else [])]


def _columns(config: SourceConfig) -> list[str]:
    return list(dict.fromkeys((config.url, *config.caption, *metadata_columns(config))))


def _converted(config: SourceConfig, batch: pa.RecordBatch, bad: Counter[str]) -> pa.RecordBatch:
    """Return a file's batch with the columns and types that `read` promises, without rows of too long a URL."""
    columns = {"url": column_values.texts(batch.column(config.url), MAX_URL + 1), "caption": captions(config, batch)}
    columns |= {METADATA_PREFIX + name: column_values.metadata(batch.column(name)) for name in metadata_columns(config)}
    converted = pa.record_batch(columns)
    is_short = pc.fill_null(pc.less_equal(pc.utf8_length(columns["url"]), MAX_URL), True)
    short = pc.sum(is_short).as_py() or 0
    if short == len(batch):
        return converted
    bad[BAD_ROW] += len(batch) - short
    return converted.filter(is_short)


def captions(config: SourceConfig, batch: pa.RecordBatch) -> pa.Array:
    """Return the captions of a table's batch: texts, "" if missing, or lists of texts."""
    columns = [batch.column(column) for column in config.caption]
    if column_values.is_list(columns[0].type):  # several captions an image
        lists = column_values.text_lists(columns[0], MAX_CHARACTERS)
        return _unquoted_lists(lists) if config.unquote else lists
    if len(columns) == 1 and not config.unquote:
        return column_values.texts(columns[0], MAX_CHARACTERS).fill_null("")
    texts = [column_values.texts(column, column_values.MAX_ESCAPED).to_pylist() for column in columns]
    joined = (" ".join(filter(None, parts)) for parts in zip(*texts, strict=True))
    decoded = (unquote_plus(text) if config.unquote else text for text in joined)
    return pa.array((caption[:MAX_CHARACTERS] for caption in decoded), pa.string())


def _unquoted_lists(captions: pa.Array) -> pa.Array:
    texts = (text and unquote_plus(text) for text in captions.flatten().to_pylist())
    return pa.ListArray.from_arrays(captions.offsets, pa.array(texts, pa.string()))
