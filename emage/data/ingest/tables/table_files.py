"""The files of a URL table, on this machine or in object storage: which are read, which are passed over, and why."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.fs

from emage.config import SourceConfig
from emage.utils import storage
from emage.utils.errors import InputError, first_line
from emage.utils.redact import redact, redact_settings

# Suffix, in small letters -> format.
FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
# Suffix of a text table that is decompressed while it is read -> pyarrow's name of the compression.
COMPRESSION = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
HIDDEN = (".", "_")  # how the names of files and folders begin that pyarrow.dataset and Spark pass over as well


@dataclass(frozen=True)
class TableFiles:
    """The files of a table.

    Attributes:
        filesystem: Where they are.
        root: The table's folder there, or its only file.
        infos: The files that are read, sorted by path.
        passed_over: How many files of the folder are not read, by kind.
    """

    filesystem: pyarrow.fs.FileSystem
    root: str
    infos: tuple[pyarrow.fs.FileInfo, ...]
    passed_over: dict[str, int]

    @property
    def paths(self) -> list[str]:
        """Return the paths of the files that are read."""
        return [info.path for info in self.infos]

    def passed_over_text(self, config: SourceConfig) -> str:
        """Return a sentence on the files of the table's folder that are not read; "" if all are."""
        count = sum(self.passed_over.values())
        return (
            f"{redact_settings(config.table)}: {count} files of this folder are not read{self.kinds()}" if count else ""
        )

    def kinds(self) -> str:
        """Return the kinds of files that are passed over, in brackets; "" if there are none."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.passed_over.items()))
        return f" ({kinds})" if kinds else ""

    def name_of(self, path: str) -> str:
        """Return a file's path within the table's folder, or its name if the table is one file."""
        name = PurePosixPath(path)
        return name.name if path == self.root else relative(path, self.root).as_posix()


def find_files(config: SourceConfig) -> TableFiles:
    """Return the table's files.

    Raises:
        InputError: The path does not exist or is unreachable, or a folder has no file of the wanted format.
    """
    filesystem, info, listing = list_path(config)
    path = info.path
    if info.type == pyarrow.fs.FileType.File:
        format_of(config, path)
        return TableFiles(filesystem, path, (info,), {})
    read: list[pyarrow.fs.FileInfo] = []
    passed_over = count_links_to_nothing(path) if isinstance(filesystem, pyarrow.fs.LocalFileSystem) else Counter[str]()
    for info in listing:
        if kind := _why_not(config, info, path):
            passed_over[kind] += 1
        elif info.type != pyarrow.fs.FileType.Directory:
            read.append(info)
    found = TableFiles(filesystem, path, tuple(read), dict(passed_over))
    if not read:
        wanted = ", ".join(sorted(_wanted(config)))
        table = redact_settings(config.table)
        raise InputError(f"{table}: no {wanted} files in this folder (source.table){found.kinds()}, nor images")
    return found


def list_path(
    config: SourceConfig,
) -> tuple[pyarrow.fs.FileSystem, pyarrow.fs.FileInfo, list[pyarrow.fs.FileInfo]]:
    """Return the file system of source.table, the file or folder there, and all that is in the folder.

    Files that braces name are all that is in their folder.

    Raises:
        InputError: The path, or a file that braces name, does not exist or is unreachable.
    """
    table = redact_settings(config.table)
    filesystem, path = storage.find(config.table)
    _, names = storage.split_braces(config.table)
    with storage.explain_errors(table):
        if names:
            listing = filesystem.get_file_info([f"{path.rstrip('/')}/{name}" for name in names])
            if missing := [info.path for info in listing if info.type == pyarrow.fs.FileType.NotFound]:
                raise InputError(f"{table}: {len(missing)} of {len(names)} files are missing, {missing[0]} for example")
            root = pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.Directory)
            return filesystem, root, sorted(listing, key=lambda info: info.path)
        info = filesystem.get_file_info(path)
        is_folder = info.type == pyarrow.fs.FileType.Directory
        listing = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True)) if is_folder else []
    if info.type == pyarrow.fs.FileType.NotFound:
        raise InputError(f"{table}: no such file or folder (source.table)")
    return filesystem, info, sorted(listing, key=lambda info: info.path)


def open_folder(config: SourceConfig) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the file system of source.table, and the folder in which its files have the names of `TableFiles.name_of`.

    What is a file is asked, not guessed: Spark writes folders called t.parquet.
    """
    filesystem, path = storage.find(config.table)
    with storage.explain_errors(config.table):
        is_file = filesystem.get_file_info(path).type == pyarrow.fs.FileType.File
    return filesystem, path.rpartition("/")[0] if is_file else path.rstrip("/")


def count_links_to_nothing(folder: str) -> Counter[str]:
    """Return how many links in a folder of this machine lead to nothing: pyarrow does not list these."""
    links = (path for path in Path(folder).rglob("*") if path.is_symlink() and not path.exists())
    return Counter("links to nothing" for _ in links)


def _why_not(config: SourceConfig, info: pyarrow.fs.FileInfo, root: str) -> str:
    """Return the kind of files that are passed over to which this one belongs; "" if it is read or is a folder."""
    if info.type == pyarrow.fs.FileType.Directory:
        return ""
    name = relative(info.path, root)
    if any(part.startswith(HIDDEN) for part in name.parts):
        return "hidden: the name, or a folder's, begins with . or _"
    if info.type != pyarrow.fs.FileType.File:
        return "neither file nor folder"
    if FORMATS.get(suffix_of(info.path)) not in _wanted(config):
        return kind_by_name(info.path)
    return ""


def kind_by_name(path: str) -> str:
    """Return the kind of files that are passed over to which one belongs by its name."""
    suffix = suffix_of(path) or PurePosixPath(path).suffix
    return f"of type {suffix}" if suffix else "without a type in the name"


def _wanted(config: SourceConfig) -> set[str]:
    return set(FORMATS.values()) if config.format == "auto" else {config.format}


def relative(path: str, root: str) -> PurePosixPath:
    """Return a file's path within the folder `root`."""
    inside = path.removeprefix(root.rstrip("/"))
    return PurePosixPath(inside.lstrip("/"))


def format_of(config: SourceConfig, path: str) -> str:
    """Return parquet, csv, tsv or jsonl: source.format, or by the file's suffix. Raise InputError if it is unknown."""
    if config.format != "auto":
        return config.format
    if suffix_of(path) not in FORMATS:
        is_archive = suffix_of(path) in (".tar", ".tgz", ".zip")
        hint = "; of archives, those that are not compressed are read (.tar)" if is_archive else ""
        raise InputError(f"{path}: unknown file type; set source.format=parquet|csv|tsv|jsonl{hint}")
    return FORMATS[suffix_of(path)]


def compression_of(path: str) -> str | None:
    """Return pyarrow's name of a file's compression, by its suffix; None if it has none."""
    return COMPRESSION.get(PurePosixPath(path).suffix.lower())


def suffix_of(path: str) -> str:
    """Return ".tsv" for a/b.tsv and for a/B.TSV.GZ."""
    name = PurePosixPath(path)
    suffix = PurePosixPath(name.stem).suffix if name.suffix.lower() in COMPRESSION else name.suffix
    return suffix.lower()


@contextmanager
def explain_read_errors(config: SourceConfig, file: str) -> Iterator[None]:
    """Turn an error of a library about a file into an InputError that names the file.

    Malformed parquet and storage without a network raise errors of any type, those of the client of Hugging Face too.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise InputError(f"{redact(file)}: not a readable {format_of(config, file)} file ({reason})") from None


def column_setting(config: SourceConfig, column: str) -> str:
    """Return the setting that names a column: source.url, source.caption, source.md5 or source.where."""
    keys: dict[Any, str] = dict.fromkeys(config.caption, "source.caption")
    return ({config.md5: "source.md5"} | keys | {config.url: "source.url"}).get(column, "source.where")
