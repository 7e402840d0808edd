"""Tables of image URLs and captions: parquet, csv, tsv or jsonl, one file or a folder, here or in object storage.

Whatever the table looks like, `read` gives record batches with two string columns, url and caption, and the columns
that its conditions ask for, in the table's own order and never more than a batch in memory. What is wrong with a table
is an InputError that says where; what is wrong with one row of text is counted and costs that row alone.
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.fs
import pyarrow.parquet as pq
from omegaconf.errors import OmegaConfBaseException

from emage.config import IngestConfig, SourceConfig, nearest, preset
from emage.config.cli import refusal
from emage.config.presets import PRESETS
from emage.data.ingest import url_filter
from emage.utils import storage
from emage.utils.errors import InputError
from emage.utils.redact import redact

META = "meta."  # in front of the names of columns beside url and caption
PART_ROWS = 1_000_000
FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
BATCH_ROWS = 16_384
COMPRESSED = (".gz", ".bz2", ".zst")  # of text tables, undone while reading
BLOCK = 8 << 20  # bytes of a text table read at a time; no row of csv or tsv may be longer


@dataclass(frozen=True)
class Part:
    """What one worker reads: a whole file of text, or some row groups of a parquet file."""

    file: str
    groups: tuple[int, ...] | None = None


def all_of(config: IngestConfig) -> list[SourceConfig]:
    """The tables of an ingest. One of `config.more` has the columns of the preset that it is named after.

    Their paths are absolute: a cluster's workers have another working folder.
    """
    found = [config.source]
    for name, values in config.more.items():
        if not isinstance(values, dict) or "table" not in values:
            raise InputError(f"more.{name}: say more.{name}.table=... (and other keys of source, where they differ)")
        known = name if "IngestConfig" in PRESETS.get(name, {}) else None
        try:
            found.append(preset(IngestConfig, known, output="", source={"dataset": name, **values}).source)
        except OmegaConfBaseException as error:
            key = (getattr(error, "full_key", None) or "").removeprefix("source.")
            raise InputError(refusal(error, f"more.{name}.{key}".rstrip("."), values.get(key))) from None
    names = [source.dataset for source in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two tables are called {twice[0]!r}; give one another source.dataset")
    return [replace(source, table=storage.absolute(source.table)) for source in found]


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


def read(config: SourceConfig, part: Part | None = None, bad: Counter[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Non-empty batches of url and caption and, under META + their names, the columns of `where` and `md5`.

    Rows of text that cannot be read are left out, and counted in `bad` as "bad_row". Bytes that are no UTF-8 become
    U+FFFD.
    """
    bad = Counter() if bad is None else bad
    filesystem, files = _files(config) if part is None else (storage.find(config.table)[0], [part.file])
    columns = list(dict.fromkeys((config.url, *config.caption, *_extras(config))))
    openers = {"csv": _open_text, "tsv": _open_text, "jsonl": _open_jsonl}
    for file in files:
        format = _format(config, file)
        with _readable(config, file):
            if format == "parquet":
                batches = _open_parquet(config, filesystem, file, columns, part and part.groups)
            else:
                batches = openers[format](config, filesystem, file, columns, bad)
            for batch in batches:
                if len(batch):
                    yield _pair(config, batch)


def check(config: SourceConfig) -> None:
    """Raises InputError where the table is missing, unreadable, empty or without the mapped columns."""
    table, bad = redact(config.table), Counter[str]()
    first = next(read(config, bad=bad), None)
    if first is None and bad:
        raise InputError(f"{table}: no row has as many columns as there are names (source.names, source.format)")
    if first is None:
        raise InputError(f"{table}: the table has no rows")
    for condition in conditions(config):
        values = first[META + condition.column]
        name, where = repr(condition.column), f"(source.where: {condition.text})"
        try:
            condition.holds(values)
        except pa.ArrowException:
            raise InputError(f"{table}: {name} holds {values.type}, which cannot be compared {where}") from None
        if isinstance(condition.value, float) and url_filter.lacks_numbers(values):
            raise InputError(f"{table}: {name} holds no numbers {where}")


def describe(config: SourceConfig) -> list[list[Any]]:
    """[name, bytes] of each file: enough to notice that a table is no longer the one that it was."""
    filesystem, files = _files(config)
    return [[PurePosixPath(info.path).name, info.size] for info in filesystem.get_file_info(files)]


def count(config: SourceConfig) -> int:
    """Rows of the table: exact for parquet; lines of text otherwise, a little off where a caption holds line breaks."""
    filesystem, files = _files(config)
    total = 0
    for file in files:
        with _readable(config, file):
            if _format(config, file) == "parquet":
                total += pq.read_metadata(file, filesystem=filesystem).num_rows
            else:
                has_header = _format(config, file) in ("csv", "tsv") and not config.names
                total += _lines(filesystem, file) - has_header
    return total


def _lines(filesystem: pyarrow.fs.FileSystem, file: str) -> int:
    total, last = 0, b"\n"
    with filesystem.open_input_stream(file) as stream:
        while block := stream.read(BLOCK):
            total, last = total + block.count(b"\n"), block[-1:]
    return total + (last != b"\n")


# --- Files -----------------------------------------------------------------------------------------------------------


def _files(config: SourceConfig) -> tuple[pyarrow.fs.FileSystem, list[str]]:
    """The table's files, in order of their names."""
    table = redact(config.table)
    filesystem, path = storage.find(config.table)
    try:
        info = filesystem.get_file_info(path)
        is_folder = info.type == pyarrow.fs.FileType.Directory
        listing = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True)) if is_folder else []
    except (pa.ArrowException, OSError) as error:
        raise InputError(redact(f"{table}: {storage.first_line(error)}")) from None
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


def conditions(config: SourceConfig) -> list[url_filter.Condition]:
    return [url_filter.condition(text) for text in config.where]


def _extras(config: SourceConfig) -> list[str]:
    return [*(condition.column for condition in conditions(config)), *([config.md5] if config.md5 else [])]


@contextmanager
def _readable(config: SourceConfig, file: str) -> Iterator[None]:
    """What pyarrow raises about a file becomes an InputError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a readable {_format(config, file)} file ({storage.first_line(error)})") from None


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
        yield from table.iter_batches(batch_size=BATCH_ROWS, columns=columns, row_groups=groups)


def _open_text(
    config: SourceConfig, filesystem: pyarrow.fs.FileSystem, file: str, columns: list[str], bad: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """csv with its quotes and line breaks inside them; tsv as the public tables are written: no quoting at all."""
    is_csv = _format(config, file) == "csv"

    def options(skipped: Counter[str]) -> dict[str, Any]:
        def skip(_: Any) -> str:
            skipped["bad_row"] += 1
            return "skip"

        return {
            "read_options": pa_csv.ReadOptions(column_names=list(config.names) or None, block_size=BLOCK),
            "parse_options": pa_csv.ParseOptions(
                delimiter="," if is_csv else "\t",
                quote_char='"' if is_csv else False,
                newlines_in_values=is_csv,
                invalid_row_handler=skip,
            ),
        }

    if filesystem.get_file_info(file).size == 0:
        return
    with filesystem.open_input_stream(file) as stream, pa_csv.open_csv(stream, **options(Counter())) as table:
        _check_columns(config, file, table.schema.names, columns)
    # Opened again for these columns alone, as bytes: a guessed type can turn out wrong a million rows later, and
    # bytes that are no text are fatal to pyarrow's strings.
    as_bytes = pa_csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.binary()))
    with (
        filesystem.open_input_stream(file) as stream,
        pa_csv.open_csv(stream, **options(bad), convert_options=as_bytes) as table,
    ):
        yield from table


def _open_jsonl(
    config: SourceConfig, filesystem: pyarrow.fs.FileSystem, file: str, columns: list[str], bad: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """Python's parser, as fast as pyarrow's here, which stops where a column holds texts and numbers."""
    with filesystem.open_input_stream(file) as stream:
        first = stream.read(BLOCK).lstrip().partition(b"\n")[0]
    if not first:
        return
    row = _object(first.decode("utf-8-sig", errors="replace"))
    if row is None:
        raise InputError(f"{file}: the first line is no JSON object; jsonl holds one object a line")
    _check_columns(config, file, list(row), columns)
    with (
        filesystem.open_input_stream(file) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="\n") as lines,
    ):
        objects = _objects(lines, bad)
        while rows := list(islice(objects, BATCH_ROWS)):
            yield pa.record_batch({column: _json_texts([row.get(column) for row in rows]) for column in columns})


def _objects(lines: Iterable[str], bad: Counter[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.strip():
            continue
        row = _object(line)
        if row is None:
            bad["bad_row"] += 1
        else:
            yield row


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # the latter of ten thousand brackets
        return None
    return row if isinstance(row, dict) else None


def _json_texts(values: list[Any]) -> pa.Array:
    """Texts as they are, the rest as JSON writes it: 0.3, true."""
    texts = [value if isinstance(value, str) or value is None else json.dumps(value) for value in values]
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and UTF-8 cannot
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


def _pair(config: SourceConfig, batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = {"url": _text(batch.column(config.url)), "caption": _captions(config, batch)}
    columns |= {META + name: _plain(batch.column(name)) for name in _extras(config)}
    return pa.record_batch(columns)


def _plain(column: pa.Array) -> pa.Array:
    """A category column as its values, bytes as text, the rest as it is."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return _text(column) if pa.types.is_binary(column.type) else column


def _text(column: pa.Array) -> pa.Array:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:  # bytes that are no UTF-8
        return pa.array((v if v is None else v.decode(errors="replace") for v in column.to_pylist()), pa.string())


def _captions(config: SourceConfig, batch: pa.RecordBatch) -> pa.Array:
    if len(config.caption) == 1 and not config.unquote:
        return _text(batch.column(config.caption[0])).fill_null("")
    texts = [_text(batch.column(column)).to_pylist() for column in config.caption]
    joined = (" ".join(filter(None, parts)) for parts in zip(*texts, strict=True))
    return pa.array((unquote_plus(text) if config.unquote else text for text in joined), pa.string())
