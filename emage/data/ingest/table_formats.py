"""Reading of one file of a URL table: parquet, csv, tsv or jsonl -> record batches of the wanted columns.

A row of a text file (csv, tsv, jsonl) that cannot be read is skipped and counted as "bad_row". Columns of csv and tsv
are returned as bytes; url_table.py decodes them.
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.fs
import pyarrow.parquet as pq

from emage.config import SourceConfig, nearest
from emage.data.ingest import table_files
from emage.utils.errors import InputError

BATCH_ROWS = 16_384
BLOCK_BYTES = 8 << 20  # of a text file, read at a time; no row of csv or tsv may be longer


def read_file(
    config: SourceConfig,
    filesystem: pyarrow.fs.FileSystem,
    file: str,
    columns: list[str],
    row_groups: tuple[int, ...] | None,
    bad: Counter[str],
) -> Iterator[pa.RecordBatch]:
    """Yield record batches of one file.

    Args:
        config: The table, for its format and the names of its columns.
        filesystem: Where the file is.
        file: Its path there.
        columns: The columns to read.
        row_groups: The row groups to read of a parquet file; None: all of them.
        bad: The counter of the rows that cannot be read; they are added to it as "bad_row".

    Raises:
        InputError: The file does not have one of the columns.
    """
    format = table_files.format_of(config, file)
    if format == "parquet":
        yield from _read_parquet(config, filesystem, file, columns, row_groups)
    elif format == "jsonl":
        yield from _read_jsonl(config, filesystem, file, columns, bad)
    else:
        yield from _read_csv(config, filesystem, file, columns, bad)


def count_rows(config: SourceConfig, filesystem: pyarrow.fs.FileSystem, file: str) -> int:
    """Return the number of rows: exact for parquet; for text the lines, too many if captions have line breaks."""
    format = table_files.format_of(config, file)
    if format == "parquet":
        return pq.read_metadata(file, filesystem=filesystem).num_rows
    has_header = format in ("csv", "tsv") and not config.names
    return _count_lines(filesystem, file) - has_header


def _count_lines(filesystem: pyarrow.fs.FileSystem, file: str) -> int:
    total, last = 0, b"\n"
    with filesystem.open_input_stream(file) as stream:
        while block := stream.read(BLOCK_BYTES):
            total, last = total + block.count(b"\n"), block[-1:]
    return total + (last != b"\n")


def _read_parquet(
    config: SourceConfig,
    filesystem: pyarrow.fs.FileSystem,
    file: str,
    columns: list[str],
    row_groups: tuple[int, ...] | None,
) -> Iterator[pa.RecordBatch]:
    with filesystem.open_input_file(file) as stream:
        table = pq.ParquetFile(stream)
        _check_columns(config, file, table.schema_arrow.names, columns)
        yield from table.iter_batches(batch_size=BATCH_ROWS, columns=columns, row_groups=row_groups)


def _read_csv(
    config: SourceConfig, filesystem: pyarrow.fs.FileSystem, file: str, columns: list[str], bad: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """Read csv, in which quoted values may have line breaks; or tsv as the public tables have it, without quoting."""
    if filesystem.get_file_info(file).size == 0:
        return
    options = _csv_options(config, file, Counter())
    with filesystem.open_input_stream(file) as stream, pa_csv.open_csv(stream, **options) as table:
        _check_columns(config, file, table.schema.names, columns)
    # Opened again to read these columns alone, as bytes: a guessed type can turn out to be wrong a million rows later,
    # and pyarrow's strings do not accept bytes that are not UTF-8.
    as_bytes = pa_csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.binary()))
    options = _csv_options(config, file, bad)
    with (
        filesystem.open_input_stream(file) as stream,
        pa_csv.open_csv(stream, **options, convert_options=as_bytes) as table,
    ):
        yield from table


def _csv_options(config: SourceConfig, file: str, bad: Counter[str]) -> dict[str, Any]:
    is_csv = table_files.format_of(config, file) == "csv"

    def skip(_: Any) -> str:
        bad["bad_row"] += 1
        return "skip"

    return {
        "read_options": pa_csv.ReadOptions(column_names=list(config.names) or None, block_size=BLOCK_BYTES),
        "parse_options": pa_csv.ParseOptions(
            delimiter="," if is_csv else "\t",
            quote_char='"' if is_csv else False,
            newlines_in_values=is_csv,
            invalid_row_handler=skip,
        ),
    }


def _read_jsonl(
    config: SourceConfig, filesystem: pyarrow.fs.FileSystem, file: str, columns: list[str], bad: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """Read jsonl with Python's JSON parser: pyarrow's is no faster, and fails if a column has texts and numbers."""
    with filesystem.open_input_stream(file) as stream:
        first = stream.read(BLOCK_BYTES).lstrip().partition(b"\n")[0]
    if not first:
        return
    row = _parse_object(first.decode("utf-8-sig", errors="replace"))
    if row is None:
        raise InputError(f"{file}: the first line is not a JSON object; jsonl has one object per line")
    _check_columns(config, file, list(row), columns)
    with (
        filesystem.open_input_stream(file) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="\n") as lines,
    ):
        objects = _parse_objects(lines, bad)
        while rows := list(islice(objects, BATCH_ROWS)):
            yield pa.record_batch({column: _json_texts([row.get(column) for row in rows]) for column in columns})


def _parse_objects(lines: Iterable[str], bad: Counter[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.strip():
            continue
        row = _parse_object(line)
        if row is None:
            bad["bad_row"] += 1
        else:
            yield row


def _parse_object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # RecursionError: ten thousand brackets
        return None
    return row if isinstance(row, dict) else None


def _json_texts(values: list[Any]) -> pa.Array:
    """Return strings as they are, other values as JSON writes them: 0.3, true."""
    texts = [value if isinstance(value, str) or value is None else json.dumps(value) for value in values]
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can express and UTF-8 cannot
        return pa.array((t if t is None else t.encode(errors="replace").decode() for t in texts), pa.string())


def _check_columns(config: SourceConfig, file: str, names: list[str], columns: list[str]) -> None:
    for column in columns:
        if column not in names:
            keys = {config.url: "source.url", config.md5: "source.md5"} | dict.fromkeys(
                config.caption, "source.caption"
            )
            key = keys.get(column, "source.where")
            has = ", ".join(names[:20])
            raise InputError(f"{file}: no column {column!r} ({key}){nearest(column, names)} (it has: {has})")
