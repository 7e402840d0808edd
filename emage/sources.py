"""Tables of picture URLs and captions: parquet, csv, tsv or jsonl, one file or a folder, here or in object storage.

Whatever the table looks like, `read` gives record batches with two string columns, url and caption, and the columns
that its conditions ask for, in the table's own order and never more than a batch in memory. What is wrong with a table
is an InputError that says where.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.fs
import pyarrow.json as pa_json
import pyarrow.parquet as pq
from omegaconf.errors import OmegaConfBaseException

from emage import filters
from emage.config import IngestConfig, SourceConfig, nearest, preset
from emage.errors import InputError
from emage.presets import PRESETS

META = "meta."  # in front of the names of columns beside url and caption
PART_ROWS = 1_000_000
FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
COMPRESSED = (".gz", ".bz2", ".zst")  # of text tables, undone while reading
BLOCK = 8 << 20  # bytes of a text table read at a time; no row may be longer


@dataclass(frozen=True)
class Part:
    """What one worker reads: a whole file of text, or some row groups of a parquet file."""

    file: str
    groups: tuple[int, ...] | None = None


def all_of(config: IngestConfig) -> list[SourceConfig]:
    """The tables of an ingest. One of `config.more` has the columns of the preset that it is named after."""
    found = [config.source]
    for name, values in config.more.items():
        if not isinstance(values, dict) or "table" not in values:
            raise InputError(f"more.{name}: say more.{name}.table=... (and other keys of source, where they differ)")
        known = name if "IngestConfig" in PRESETS.get(name, {}) else None
        try:
            found.append(preset(IngestConfig, known, output="", source={"dataset": name, **values}).source)
        except OmegaConfBaseException as error:
            raise InputError(f"more.{name}: {_first_line(error)}") from None
    names = [source.dataset for source in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two tables are called {twice[0]!r}; give one another source.dataset")
    return found


def parts(config: SourceConfig) -> list[Part]:
    """The table cut into pieces of about PART_ROWS rows, as far as its format lets itself be cut."""
    filesystem, files = _files(config)
    found: list[Part] = []
    for file in files:
        if _format(config, file) != "parquet":
            found.append(Part(file))
            continue
        groups: list[int] = []
        rows = 0
        with _readable(config, file):
            metadata = pq.read_metadata(file, filesystem=filesystem)
        for group in range(metadata.num_row_groups):
            groups, rows = [*groups, group], rows + metadata.row_group(group).num_rows
            if rows >= PART_ROWS:
                found.append(Part(file, tuple(groups)))
                groups, rows = [], 0
        found += [Part(file, tuple(groups))] if groups else []
    return found


def read(config: SourceConfig, part: Part | None = None) -> Iterator[pa.RecordBatch]:
    """Non-empty batches of PAIR and, under META + their names, the columns of `config.where` and `config.md5`."""
    filesystem, files = _files(config) if part is None else (_filesystem(config)[0], [part.file])
    columns = list(dict.fromkeys((config.url, *config.caption, *_extras(config))))
    openers = {"csv": _open_text, "tsv": _open_text, "jsonl": _open_jsonl}
    for file in files:
        format = _format(config, file)
        with _readable(config, file):
            if format == "parquet":
                batches = _open_parquet(config, filesystem, file, columns, part and part.groups)
            else:
                batches = openers[format](config, filesystem, file, columns)
            for batch in batches:
                if len(batch):
                    yield _pair(config, batch)


def check(config: SourceConfig) -> None:
    """Raises InputError where the table is missing, unreadable, empty or without the mapped columns."""
    first = next(read(config), None)
    if first is None:
        raise InputError(f"{public(config.table)}: the table has no rows")
    for condition in conditions(config):
        values = first[META + condition.column]
        if isinstance(condition.value, float) and filters.numbers(values).null_count == len(values):
            raise InputError(
                f"{public(config.table)}: {condition.column!r} holds no numbers (source.where: {condition.text})"
            )


def describe(config: SourceConfig) -> list[list[Any]]:
    """[name, bytes] of each file: enough to notice that a table is no longer the one that it was."""
    filesystem, files = _files(config)
    return [[PurePosixPath(info.path).name, info.size] for info in filesystem.get_file_info(files)]


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
    table = public(config.table)
    filesystem, path = _filesystem(config)
    try:
        info = filesystem.get_file_info(path)
        is_folder = info.type == pyarrow.fs.FileType.Directory
        listing = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True)) if is_folder else []
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{table}: {_first_line(error)}") from None
    if info.type == pyarrow.fs.FileType.NotFound:
        raise InputError(f"{table}: no such file or folder (source.table)")
    if info.type == pyarrow.fs.FileType.File:
        _format(config, path)
        return filesystem, [path]
    wanted = set(FORMATS.values()) if config.format == "auto" else {config.format}
    files = sorted(
        info.path
        for info in listing
        if info.type == pyarrow.fs.FileType.File
        and not info.base_name.startswith((".", "_"))
        and FORMATS.get(_ending(info.path)) in wanted
    )
    if not files:
        raise InputError(f"{table}: no {', '.join(sorted(wanted))} files in this folder (source.table)")
    return filesystem, files


def _filesystem(config: SourceConfig) -> tuple[pyarrow.fs.FileSystem, str]:
    """Where the table lies, and its path there."""
    uri = config.table
    if "://" not in uri:
        return pyarrow.fs.LocalFileSystem(), uri
    if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in uri:
        # Google's client tries again for 15 minutes before it says what is wrong; half a minute will do.
        uri += ("&" if "?" in uri else "?") + "retry_limit_seconds=30"
    try:
        return pyarrow.fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{public(config.table)}: {_first_line(error)}") from None


def public(uri: str) -> str:
    """The address without a key and secret that may stand in it: s3://key:secret@bucket/path."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


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


def conditions(config: SourceConfig) -> list[filters.Condition]:
    return [filters.condition(text) for text in config.where]


def _extras(config: SourceConfig) -> list[str]:
    return [*(condition.column for condition in conditions(config)), *([config.md5] if config.md5 else [])]


@contextmanager
def _readable(config: SourceConfig, file: str) -> Iterator[None]:
    """What pyarrow raises about a file becomes an InputError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a readable {_format(config, file)} file ({_first_line(error)})") from None


def _open_parquet(
    config: SourceConfig,
    filesystem: pyarrow.fs.FileSystem,
    file: str,
    columns: list[str],
    groups: tuple[int, ...] | None,
) -> Iterator[pa.RecordBatch]:
    with filesystem.open_input_file(file) as stream:
        table = pq.ParquetFile(stream)
        _check_columns(config, file, table.schema_arrow.names, columns)
        yield from table.iter_batches(batch_size=16_384, columns=columns, row_groups=groups)


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
    numeric = {condition.column for condition in conditions(config) if isinstance(condition.value, float)}
    types = [(column, pa.float64() if column in numeric else pa.string()) for column in columns]
    wanted = pa_json.ParseOptions(explicit_schema=pa.schema(types), unexpected_field_behavior="ignore")
    with (
        filesystem.open_input_stream(file) as stream,
        pa_json.open_json(stream, read_options=pa_json.ReadOptions(block_size=BLOCK), parse_options=wanted) as table,
    ):
        yield from table


def _check_columns(config: SourceConfig, file: str, names: list[str], columns: list[str]) -> None:
    for column in columns:
        if column not in names:
            keys = {config.url: "source.url", config.md5: "source.md5"} | dict.fromkeys(
                config.caption, "source.caption"
            )
            key = keys.get(column, "source.where")
            has = ", ".join(names[:20])
            raise InputError(f"{file}: no column {column!r} ({key}){nearest(column, names)} (it has: {has})")


def _pair(config: SourceConfig, batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = {"url": batch.column(config.url).cast(pa.string()), "caption": _captions(config, batch)}
    columns |= {META + name: batch.column(name) for name in _extras(config)}
    return pa.record_batch(columns)


def _captions(config: SourceConfig, batch: pa.RecordBatch) -> pa.Array:
    if len(config.caption) == 1 and not config.unquote:
        return batch.column(config.caption[0]).cast(pa.string()).fill_null("")
    texts = [batch.column(column).cast(pa.string()).to_pylist() for column in config.caption]
    joined = (" ".join(filter(None, parts)) for parts in zip(*texts, strict=True))
    return pa.array((unquote_plus(text) if config.unquote else text for text in joined), pa.string())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
