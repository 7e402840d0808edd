"""Reading of one file of a URL table: parquet, csv, tsv or jsonl -> record batches of the wanted columns.

A row of a text file (csv, tsv, jsonl) that cannot be read is skipped and counted as "bad_row".
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from emage.config import SourceConfig
from emage.data.ingest.tables import column_values, parquet_batches, table_files, text_rows
from emage.data.ingest.tables.text_lines import open_text
from emage.data.ingest.tables.text_rows import BAD_ROW
from emage.utils.errors import InputError

BATCH_ROWS = 16_384  # of a text file
BATCH_CHARACTERS = 16 << 20  # after which a batch has no more rows
Value = str | list[str | None] | None  # of a text table: a list of captions, in jsonl
MAX_NAMES = 1_000  # of jsonl, that are remembered for a message


def read_file(
    config: SourceConfig,
    filesystem: pyarrow.fs.FileSystem,
    file: str,
    columns: list[str],
    row_groups: tuple[int, ...] | None,
    bad: Counter[str],
    seen: set[str],
) -> Iterator[pa.RecordBatch]:
    """Yield record batches of one file; the columns of text files are texts, those of parquet files have their types.

    Args:
        config: The table, for its format and the names of its columns.
        filesystem: Where the file is.
        file: Its path there.
        columns: The columns to read.
        row_groups: The row groups to read of a parquet file; None: all of them.
        bad: The counter of the rows that cannot be read; they are added to it as "bad_row".
        seen: The names that were found are added to it: those of jsonl row by row, since a row may lack any.

    Raises:
        InputError: The file lacks one of the columns (not for jsonl), or one holds values of a wrong type.
    """
    format = table_files.format_of(config, file)
    if format == "jsonl":
        yield from _read_jsonl(config, filesystem, file, columns, bad, seen)
        return
    if format == "parquet":
        batches = _read_parquet(config, filesystem, file, columns, row_groups)
    else:
        batches = _read_delimited(config, filesystem, file, columns, bad)
    for batch in batches:
        seen.update(columns)
        yield batch


def _read_parquet(
    config: SourceConfig,
    filesystem: pyarrow.fs.FileSystem,
    file: str,
    columns: list[str],
    row_groups: tuple[int, ...] | None,
) -> Iterator[pa.RecordBatch]:
    schema = pq.read_schema(file, filesystem=filesystem)
    column_values.check_names(config, file, schema.names, columns)
    column_values.check_types(config, file, schema)
    yield from parquet_batches.read_batches(filesystem, file, columns, row_groups)


def _read_delimited(
    config: SourceConfig, filesystem: pyarrow.fs.FileSystem, file: str, columns: list[str], bad: Counter[str]
) -> Iterator[pa.RecordBatch]:
    is_csv = table_files.format_of(config, file) == "csv"
    with open_text(filesystem, file) as lines:

        def rows(bad: Counter[str], count: int | None, url: int) -> Iterator[list[str]]:
            return text_rows.csv_rows(lines, bad, count, url) if is_csv else text_rows.tsv_rows(lines, bad)

        names, bad_header = list(config.names), Counter[str]()
        if not names:
            names = next(rows(bad_header, None, 0), [])
        if bad_header:
            raise InputError(f"{file}: the header, line 1, cannot be read: its quotes are not closed")
        if not names:
            return
        column_values.check_names(config, file, names, columns)
        pick = _pick(columns, names)
        good = (pick(row) for row in _with_all_values(rows(bad, len(names), names.index(config.url)), len(names), bad))
        yield from _batches(good, columns)


def _with_all_values(rows: Iterable[list[str]], count: int, bad: Counter[str]) -> Iterator[list[str]]:
    for row in rows:
        if len(row) == count:
            yield row
        else:
            bad[BAD_ROW] += 1


def _pick(columns: list[str], names: list[str]) -> Callable[[list[str]], Sequence[str]]:
    """Return a function that takes the columns' values out of a row."""
    indexes = [names.index(column) for column in columns]
    return itemgetter(*indexes) if len(indexes) > 1 else lambda row: [row[indexes[0]]]


def _read_jsonl(
    config: SourceConfig,
    filesystem: pyarrow.fs.FileSystem,
    file: str,
    columns: list[str],
    bad: Counter[str],
    seen: set[str],
) -> Iterator[pa.RecordBatch]:
    def rows() -> Iterator[list[Value]]:
        for number, row in text_rows.jsonl_rows(lines, bad):
            if not seen.issuperset(columns):
                seen.update(column for column in columns if column in row)
                seen.update(list(row)[: max(0, MAX_NAMES - len(seen))])
            place = f"{file}: line {number}"
            yield [column_values.json_text(config, column, row.get(column), place) for column in columns]

    with open_text(filesystem, file, only_line_feeds=True) as lines:
        yield from _batches(rows(), columns)


def _batches(rows: Iterable[Sequence[Value]], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield record batches of at most BATCH_ROWS rows and, but for the last row, BATCH_CHARACTERS characters."""
    waiting: list[Sequence[Value]] = []
    characters = 0
    for row in rows:
        waiting.append(row)
        characters += sum(map(_count_characters, row))
        if len(waiting) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield _batch(waiting, columns)
            waiting, characters = [], 0
    if waiting:
        yield _batch(waiting, columns)


def _count_characters(value: Value) -> int:
    return sum(map(_count_characters, value)) if isinstance(value, list) else len(value or "")


def _batch(rows: list[Sequence[Value]], columns: list[str]) -> pa.RecordBatch:
    values = zip(*rows, strict=True)
    return pa.record_batch([column_values.json_column(list(column)) for column in values], names=columns)
