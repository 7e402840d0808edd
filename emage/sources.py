"""Tables of picture URLs and captions: parquet, csv, tsv or jsonl, one file or a folder, here or in object storage.

Whatever the table looks like, `read` gives pyarrow tables of two string columns, url and caption, in the table's own
order and never more than a batch in memory. What is wrong with a table is an InputError that says where.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.fs
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from emage.config import SourceConfig, nearest
from emage.errors import InputError

PAIR = pa.schema([("url", pa.string()), ("caption", pa.string())])
FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
COMPRESSED = (".gz", ".bz2", ".zst")  # of text tables, undone while reading
BLOCK = 8 << 20  # bytes of a text table read at a time; no row may be longer


def read(config: SourceConfig, rows: int) -> Iterator[pa.Table]:
    """The whole table as tables of exactly `rows` rows; only the last may have fewer."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in _pairs(config):
        while count + len(batch) >= rows:
            missing = rows - count
            yield pa.Table.from_batches([*waiting, batch.slice(0, missing)])
            waiting, count, batch = [], 0, batch.slice(missing)
        if len(batch):
            waiting.append(batch)
            count += len(batch)
    if waiting:
        yield pa.Table.from_batches(waiting)


def check(config: SourceConfig) -> None:
    """Raises InputError where the table is missing, unreadable, empty or without the mapped columns."""
    if next(_pairs(config), None) is None:
        raise InputError(f"{config.table}: the table has no rows")


def describe(config: SourceConfig) -> list[list[Any]]:
    """[name, bytes] of each file: enough to notice that a table is no longer the one that it was."""
    filesystem, files = _files(config)
    return [[PurePosixPath(file).name, filesystem.get_file_info(file).size] for file in files]


def count(config: SourceConfig) -> int:
    """Rows of the table: exact for parquet; lines of text otherwise, a little off where a caption holds line breaks."""
    filesystem, files = _files(config)
    total = 0
    for file in files:
        if _format(config, file) == "parquet":
            with _readable(config, file):
                total += pq.read_metadata(file, filesystem=filesystem).num_rows
            continue
        has_header = _format(config, file) in ("csv", "tsv") and not config.names
        with filesystem.open_input_stream(file) as stream:
            block, last = b"", b"\n"
            while block := stream.read(BLOCK):
                total, last = total + block.count(b"\n"), block[-1:]
            total += (last != b"\n") - has_header
    return total


# --- Files -----------------------------------------------------------------------------------------------------------


def _files(config: SourceConfig) -> tuple[pyarrow.fs.FileSystem, list[str]]:
    """The table's files, in order of their names."""
    try:
        if "://" in config.table:
            filesystem, path = pyarrow.fs.FileSystem.from_uri(config.table)
        else:
            filesystem, path = pyarrow.fs.LocalFileSystem(), config.table
        info = filesystem.get_file_info(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{config.table}: {_first_line(error)}") from None
    if info.type == pyarrow.fs.FileType.NotFound:
        raise InputError(f"{config.table}: no such file or folder (source.table)")
    if info.type == pyarrow.fs.FileType.File:
        _format(config, path)
        return filesystem, [path]
    listing = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    wanted = set(FORMATS.values()) if config.format == "auto" else {config.format}
    files = sorted(
        info.path
        for info in listing
        if info.type == pyarrow.fs.FileType.File
        and not info.base_name.startswith((".", "_"))
        and FORMATS.get(_ending(info.path)) in wanted
    )
    if not files:
        raise InputError(f"{config.table}: no {', '.join(sorted(wanted))} files in this folder (source.table)")
    return filesystem, files


def _ending(path: str) -> str:
    """ ".tsv" of a/b.tsv and of a/b.tsv.gz."""
    name = PurePosixPath(path)
    return PurePosixPath(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


def _format(config: SourceConfig, path: str) -> str:
    if config.format != "auto":
        return config.format
    if _ending(path) not in FORMATS:
        raise InputError(f"{path}: unknown ending; say what it is with source.format=parquet|csv|tsv|jsonl")
    return FORMATS[_ending(path)]


# --- Formats ---------------------------------------------------------------------------------------------------------


def _pairs(config: SourceConfig) -> Iterator[pa.RecordBatch]:
    """Non-empty batches of PAIR."""
    filesystem, files = _files(config)
    columns = list(dict.fromkeys((config.url, *config.caption)))
    openers = {"parquet": _open_parquet, "csv": _open_text, "tsv": _open_text, "jsonl": _open_jsonl}
    for file in files:
        with _readable(config, file):
            for batch in openers[_format(config, file)](config, filesystem, file, columns):
                if len(batch):
                    yield _pair(config, batch)


@contextmanager
def _readable(config: SourceConfig, file: str) -> Iterator[None]:
    """What pyarrow raises about a file becomes an InputError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a readable {_format(config, file)} file ({_first_line(error)})") from None


def _open_parquet(
    config: SourceConfig, filesystem: pyarrow.fs.FileSystem, file: str, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    with filesystem.open_input_file(file) as stream:
        table = pq.ParquetFile(stream)
        _check_columns(config, file, table.schema_arrow.names, columns)
        yield from table.iter_batches(batch_size=16_384, columns=columns)


def _open_text(
    config: SourceConfig, filesystem: pyarrow.fs.FileSystem, file: str, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """csv with its quotes and line breaks inside them; tsv as the public tables are written: no quoting at all."""
    is_csv = _format(config, file) == "csv"
    options: dict[str, Any] = {
        "read_options": pa_csv.ReadOptions(column_names=list(config.names) or None, block_size=BLOCK),
        "parse_options": pa_csv.ParseOptions(
            delimiter="," if is_csv else "\t", quote_char='"' if is_csv else False, newlines_in_values=is_csv
        ),
    }
    if filesystem.get_file_info(file).size == 0:
        return
    with filesystem.open_input_stream(file) as stream, pa_csv.open_csv(stream, **options) as table:
        _check_columns(config, file, table.schema.names, columns)
    # Opened again for these columns alone, as text: a guessed type can turn out wrong a million rows later.
    strings = pa_csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string()))
    with (
        filesystem.open_input_stream(file) as stream,
        pa_csv.open_csv(stream, **options, convert_options=strings) as table,
    ):
        yield from table


def _open_jsonl(
    config: SourceConfig, filesystem: pyarrow.fs.FileSystem, file: str, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    with filesystem.open_input_stream(file) as stream:
        first = stream.read(BLOCK).lstrip().partition(b"\n")[0]
    if not first:
        return
    try:
        row = json.loads(first)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise InputError(f"{file}: the first line is no JSON object; jsonl holds one object a line")
    _check_columns(config, file, list(row), columns)
    wanted = pa_json.ParseOptions(
        explicit_schema=pa.schema([(column, pa.string()) for column in columns]), unexpected_field_behavior="ignore"
    )
    with (
        filesystem.open_input_stream(file) as stream,
        pa_json.open_json(stream, read_options=pa_json.ReadOptions(block_size=BLOCK), parse_options=wanted) as table,
    ):
        yield from table


def _check_columns(config: SourceConfig, file: str, names: list[str], columns: list[str]) -> None:
    for column in columns:
        if column not in names:
            key = "source.url" if column == config.url else "source.caption"
            has = ", ".join(names[:20])
            raise InputError(f"{file}: no column {column!r} ({key}){nearest(column, names)} (it has: {has})")


def _pair(config: SourceConfig, batch: pa.RecordBatch) -> pa.RecordBatch:
    texts = [batch.column(column).cast(pa.string()).to_pylist() for column in config.caption]
    caption = [" ".join(filter(None, parts)) for parts in zip(*texts, strict=True)]
    if config.unquote:
        caption = [unquote_plus(text) for text in caption]
    return pa.record_batch([batch.column(config.url).cast(pa.string()), pa.array(caption, pa.string())], schema=PAIR)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
