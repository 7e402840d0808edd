"""A folder of images with captions beside them, subfolders included, on this machine or in object storage.

Which files are captions, and what is in them, is in captions_beside.py. Every image file is one entry; its address is
its path within the folder.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs

from emage.config import SourceConfig
from emage.data.images.file_kinds import ENDINGS
from emage.data.ingest.sources import captions_beside
from emage.data.ingest.sources.base import NO_IMAGE, OpenImage, Reserve, StoredImage, make_batch, read_file
from emage.data.ingest.tables import table_files
from emage.data.ingest.tables.table_files import TableFiles
from emage.data.ingest.url_table import TablePart
from emage.utils import storage
from emage.utils.errors import InputError
from emage.utils.redact import redact_settings

BATCH_IMAGES = 4_096
READERS = 32  # threads that read captions: on a network drive each file is a request


@dataclass(frozen=True)
class Folder:
    """The files of a folder of images: their names are paths within it."""

    filesystem: pyarrow.fs.FileSystem
    root: str
    images: dict[str, pyarrow.fs.FileInfo]  # by name, sorted
    captions: captions_beside.CaptionFiles
    passed_over: Counter[str]  # files that are neither, by kind


def list_folder(config: SourceConfig) -> Folder:
    """Return the files of a folder of images.

    Raises:
        InputError: It does not exist, is unreachable, is no folder, or has no images.
    """
    filesystem, info, listing = table_files.list_path(config)
    root, table = info.path, redact_settings(config.table)
    if info.type != pyarrow.fs.FileType.Directory:
        raise InputError(f"{table}: no folder (source.format=folder)")
    is_local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
    passed_over = table_files.count_links_to_nothing(root) if is_local else Counter[str]()
    images: dict[str, pyarrow.fs.FileInfo] = {}
    others: dict[str, pyarrow.fs.FileInfo] = {}
    for info in listing:
        name = table_files.relative(info.path, root)
        if info.type == pyarrow.fs.FileType.Directory:
            continue
        # Not those with "_" as well, as in folders of tables: cameras write names such as _DSC0001.JPG.
        if any(part.startswith(".") or part == "__MACOSX" for part in name.parts):
            passed_over["hidden: the name, or a folder's, begins with ."] += 1
        elif info.type != pyarrow.fs.FileType.File:
            passed_over["neither file nor folder"] += 1
        else:
            (images if name.suffix.lower() in ENDINGS else others)[str(name)] = info
    captions = captions_beside.find(images, others)
    for name in others.keys() - captions.files:
        kind = table_files.kind_by_name(name)
        if table_files.suffix_of(name) in captions_beside.BESIDE:
            kind += " without an image of that name"
        passed_over[kind] += 1
    if not images:
        raise InputError(f"{table}: no images in this folder ({', '.join(ENDINGS)})")
    return Folder(filesystem, root, images, captions, passed_over)


def find_files(config: SourceConfig) -> TableFiles:
    """Return the folder as one file: the sum of its files' sizes, and the time of the newest one."""
    folder = list_folder(config)
    files = [*folder.images.values(), *folder.captions.files.values()]
    times = [info.mtime_ns for info in files if info.mtime_ns is not None]
    info = pyarrow.fs.FileInfo(
        folder.root,
        pyarrow.fs.FileType.Directory,
        size=sum(info.size for info in files),
        mtime_ns=max(times, default=None),
    )
    return TableFiles(folder.filesystem, folder.root, (info,), dict(folder.passed_over))


def check(config: SourceConfig) -> None:
    """Raise InputError if no image has a caption, or a table of captions lacks a column."""
    folder = list_folder(config)
    if not folder.captions.files:
        raise InputError(
            f"{redact_settings(config.table)}: {len(folder.images):,} images without captions: put the caption of "
            "a.jpg into a.txt or a.json beside it, or those of all into a metadata.csv with the columns file_name, text"
        )
    captions_beside.check(config, folder.filesystem, folder.captions)


def split(config: SourceConfig, table: TableFiles) -> list[TablePart]:
    """Return the whole folder as one part: its captions are small, and its images are not read yet."""
    return [TablePart(table.root, table.name_of(table.root))]


def read(
    config: SourceConfig, part: TablePart | None = None, bad: Counter[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the images and their captions; see SourceModule. Captions that name no image are counted as no_image."""
    folder, bad = list_folder(config), Counter[str]() if bad is None else bad
    tables = captions_beside.read_tables(config, folder.filesystem, folder.captions, folder.images, bad)
    for name in tables.keys() - folder.images.keys():
        rows = len(tables[name].captions) if config.several_captions == "all" else 1
        bad[NO_IMAGE] += max(1, rows)

    def said(name: str) -> captions_beside.Said:
        return tables[name] if name in tables else captions_beside.read_beside(config, folder.filesystem, beside, name)

    beside, all_names = folder.captions.beside, list(folder.images)
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(all_names), BATCH_IMAGES):
            names = all_names[start : start + BATCH_IMAGES]
            found = zip(names, pool.map(said, names), strict=True)
            yield make_batch(
                config, [StoredImage(name, name, name, about.captions, about.values) for name, about in found]
            )


def survey(config: SourceConfig, file: str) -> dict[str, Any]:
    """Return the number of images, and a digest of the names and sizes of the images and of all captions."""
    folder = list_folder(config)
    digest = hashlib.sha256()
    for name, info in folder.images.items():
        digest.update(f"{name}\0{info.size}\0".encode(errors="surrogateescape"))

    def content(item: tuple[str, pyarrow.fs.FileInfo]) -> bytes:
        with folder.filesystem.open_input_stream(item[1].path, compression=None) as stream:
            return item[0].encode(errors="surrogateescape") + hashlib.sha256(stream.read()).digest()

    with ThreadPoolExecutor(READERS) as pool, storage.explain_errors(config.table):
        for data in pool.map(content, sorted(folder.captions.files.items())):
            digest.update(data)
    return {"rows": len(folder.images), "sha256": digest.hexdigest()}


def open_images(config: SourceConfig) -> OpenImage:
    """Return the function that reads an image file of the folder."""
    filesystem, root = storage.find(config.table)

    def read_image(address: str, reserve: Reserve) -> bytes:
        return read_file(filesystem, f"{root.rstrip('/')}/{address}", reserve)

    return read_image
