"""The files of a URL table, on this machine or in object storage, and the format of each."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.fs

from emage.config import SourceConfig
from emage.utils import storage
from emage.utils.errors import InputError
from emage.utils.redact import redact, redact_settings

# Suffix -> format.
FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
COMPRESSED = (".gz", ".bz2", ".zst")  # suffixes of text tables that are decompressed while they are read


def find_files(config: SourceConfig) -> tuple[pyarrow.fs.FileSystem, list[str]]:
    """Return the table's file system and the paths of its files, sorted by path.

    Raises:
        InputError: The path does not exist or is unreachable, or a folder has no file of the wanted format.
    """
    table = redact_settings(config.table)
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
        format_of(config, path)
        return filesystem, [path]
    wanted = set(FORMATS.values()) if config.format == "auto" else {config.format}
    files = sorted(
        info.path
        for info in listing
        if info.type == pyarrow.fs.FileType.File
        and not info.base_name.startswith((".", "_"))
        and FORMATS.get(_suffix(info.path)) in wanted
    )
    if not files:
        raise InputError(f"{table}: no {', '.join(sorted(wanted))} files in this folder (source.table)")
    return filesystem, files


def format_of(config: SourceConfig, path: str) -> str:
    """Return parquet, csv, tsv or jsonl: source.format, or by the file's suffix. Raise InputError if it is unknown."""
    if config.format != "auto":
        return config.format
    if _suffix(path) not in FORMATS:
        raise InputError(f"{path}: unknown file type; set source.format=parquet|csv|tsv|jsonl")
    return FORMATS[_suffix(path)]


def _suffix(path: str) -> str:
    """Return ".tsv" for a/b.tsv and for a/b.tsv.gz."""
    name = PurePosixPath(path)
    return PurePosixPath(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


@contextmanager
def explain_read_errors(config: SourceConfig, file: str) -> Iterator[None]:
    """Turn an error of pyarrow about a file into an InputError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = storage.first_line(error)
        raise InputError(f"{file}: not a readable {format_of(config, file)} file ({reason})") from None
