"""Tar archives of images with captions, as WebDataset reads and img2dataset writes them, local or in object storage.

The members of a sample have one name up to the first dot, and stand together: 000012.jpg, 000012.txt, 000012.json.
Every image is one entry; its address is `START+SIZE#ARCHIVE`, the place of its bytes: no archive is searched again.

Beside NNNNN.tar img2dataset leaves NNNNN.parquet, with a row for each URL that it tried: those that it did not get are
counted here, under the status that it gave them.
"""

import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, groupby, islice
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from emage.config import SourceConfig
from emage.data.images.file_kinds import ENDINGS
from emage.data.ingest.sources import captions_beside
from emage.data.ingest.sources.base import NO_IMAGE, OpenImage, Reserve, StoredImage, make_batch, read_file
from emage.data.ingest.tables import table_files
from emage.data.ingest.tables.table_files import TableFiles
from emage.data.ingest.url_table import TablePart
from emage.utils import storage
from emage.utils.errors import InputError, first_line
from emage.utils.redact import redact, redact_settings

ENDING = ".tar"
BATCH_SAMPLES = 1_024
GROUP_SAMPLES = 256  # that stay together in one shard: they are read one after the other
CHECKED_SAMPLES = 100  # of the first archive, in which a caption is looked for
FAILED = ("failed_to_download", "failed_to_resize")  # img2dataset's statuses, and drop reasons here


@dataclass
class Sample:
    """The members of an archive with one name: the images, and what files beside them hold, by ending."""

    name: str
    images: list[tarfile.TarInfo] = field(default_factory=list)
    texts: list[tuple[str, bytes]] = field(default_factory=list)


def find_files(config: SourceConfig) -> TableFiles:
    """Return the archives: one file, those of a folder, or those that braces name (shards/{00000..00099}.tar)."""
    filesystem, root, listing = table_files.list_path(config)
    if root.type == pyarrow.fs.FileType.File:
        return TableFiles(filesystem, root.path, (root,), {})
    archives, passed_over = [], Counter[str]()
    files = {info.path: info for info in listing if info.type == pyarrow.fs.FileType.File}
    for path, info in files.items():
        name = table_files.relative(path, root.path)
        if any(part.startswith(".") for part in name.parts):
            passed_over["hidden: the name, or a folder's, begins with ."] += 1
        elif name.suffix.lower() == ENDING:
            archives.append(info)
        elif not (name.suffix == ".parquet" and path.removesuffix(".parquet") + ENDING in files):
            passed_over[table_files.kind_by_name(path)] += 1
    if not archives:
        raise InputError(f"{redact_settings(config.table)}: no {ENDING} files in this folder (source.format=tar)")
    return TableFiles(filesystem, root.path, tuple(archives), dict(passed_over))


def check(config: SourceConfig) -> None:
    """Raise InputError if the first archive cannot be read, or none of its first samples has an image and a caption."""
    table = find_files(config)
    path = table.paths[0]
    samples = list(islice(_read_samples(table.filesystem, path), CHECKED_SAMPLES))
    if any(sample.images and captions_beside.read_contents(config, sample.texts).captions for sample in samples):
        return
    has = ", ".join(sorted({f".{ending}" for sample in samples for ending in _endings(sample)})) or "nothing"
    raise InputError(
        f"{redact(path)}: no image with a caption in its first {len(samples)} samples (they have {has}); the caption "
        "of a.jpg is a.txt, or a key of a.json that source.caption names"
    )


def split(config: SourceConfig, table: TableFiles) -> list[TablePart]:
    """Return the archives: each is one part."""
    return [TablePart(path, table.name_of(path)) for path in table.paths]


def read(
    config: SourceConfig, part: TablePart | None = None, bad: Counter[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the images of an archive and their captions; see SourceModule. What img2dataset did not get is counted."""
    assert part is not None
    filesystem, bad = storage.find(config.table)[0], Counter[str]() if bad is None else bad
    wanted = _count_failed(filesystem, part.file, bad)
    names = set()
    samples = enumerate(_read_samples(filesystem, part.file))
    while batch := list(islice(samples, BATCH_SAMPLES)):
        names |= {PurePosixPath(sample.name).name for _, sample in batch if sample.images}
        images = chain.from_iterable(_stored_images(config, part.name, number, sample) for number, sample in batch)
        yield make_batch(config, list(images))
    bad[NO_IMAGE] += len(wanted - names)


def survey(config: SourceConfig, file: str) -> dict[str, Any]:
    """Return the number of images, and a digest of the names, sizes and times of all members and of the captions."""
    filesystem, digest, rows = storage.find(config.table)[0], hashlib.sha256(), 0
    for member, data in _read_members(filesystem, file):
        digest.update(f"{member.name}\0{member.size}\0{member.mtime}\0".encode(errors="surrogateescape") + data)
        rows += _is_image(member)
    if status := _status_file(filesystem, file):
        with filesystem.open_input_stream(status, compression=None) as stream:
            digest.update(stream.read())
    return {"rows": rows, "sha256": digest.hexdigest()}


def open_images(config: SourceConfig) -> OpenImage:
    """Return the function that reads an image out of its archive."""
    filesystem, folder = table_files.open_folder(config)

    def read_image(address: str, reserve: Reserve) -> bytes:
        place, _, archive = address.partition("#")
        start, size = map(int, place.split("+"))
        return read_file(filesystem, f"{folder}/{archive}", reserve, start, size)

    return read_image


def _stored_images(config: SourceConfig, archive: str, number: int, sample: Sample) -> Iterator[StoredImage]:
    said = captions_beside.read_contents(config, sample.texts)
    for member in sample.images:
        url = said.values.get("url")
        yield StoredImage(
            url=url if isinstance(url, str) and url else f"{archive}/{member.name}",
            address=f"{member.offset_data}+{member.size}#{archive}",
            group=f"{archive} {number // GROUP_SAMPLES}",
            captions=said.captions,
            values=said.values,
        )


def _read_samples(filesystem: pyarrow.fs.FileSystem, path: str) -> Iterator[Sample]:
    for name, members in groupby(_read_members(filesystem, path), key=lambda item: _name_and_ending(item[0])[0]):
        sample = Sample(name)
        for member, data in members:
            if _is_image(member):
                sample.images.append(member)
            elif (ending := f".{_name_and_ending(member)[1]}") in captions_beside.BESIDE:
                sample.texts.append((ending, data))
        yield sample


def _read_members(filesystem: pyarrow.fs.FileSystem, path: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the files of an archive, with the content of those that are captions."""
    is_local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
    with _explain(path):
        # In object storage from the beginning to the end: a request for each header would take longer.
        opened = filesystem.open_input_file(path) if is_local else filesystem.open_input_stream(path, compression=None)
        with opened as stream, tarfile.open(fileobj=stream, mode="r:" if is_local else "r|") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined] (it would grow with the archive)
                if not member.isfile() or PurePosixPath(member.name).name.startswith("."):
                    continue
                file = archive.extractfile(member) if member.name.endswith(captions_beside.BESIDE) else None
                yield member, file.read(captions_beside.MAX_TEXT) if file else b""


@contextmanager
def _explain(path: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{redact(path)}: not a readable .tar file ({first_line(error)})") from None


def _name_and_ending(member: tarfile.TarInfo) -> tuple[str, str]:
    """Return a member's path up to the first dot of its name, and what follows the dot, in small letters."""
    folder, slash, base = member.name.rpartition("/")
    name, _, ending = base.partition(".")
    return folder + slash + name, ending.lower()


def _endings(sample: Sample) -> list[str]:
    return [*(_name_and_ending(member)[1] for member in sample.images), *(ending[1:] for ending, _ in sample.texts)]


def _is_image(member: tarfile.TarInfo) -> bool:
    return member.name.lower().endswith(ENDINGS)


# The status table of img2dataset


def _status_file(filesystem: pyarrow.fs.FileSystem, archive: str) -> str | None:
    """Return the path of the table that img2dataset left beside an archive; None if there is none."""
    path = archive[: -len(ENDING)] + ".parquet"
    if not filesystem.get_file_info(path).is_file:
        return None
    with _explain(path):
        return path if {"key", "status"} <= set(pq.read_schema(path, filesystem=filesystem).names) else None


def _count_failed(filesystem: pyarrow.fs.FileSystem, archive: str, bad: Counter[str]) -> set[str]:
    """Count the rows that img2dataset did not get in `bad`. Return the keys of those that it says are there."""
    path = _status_file(filesystem, archive)
    if path is None:
        return set()
    with _explain(path):
        rows = pq.read_table(path, filesystem=filesystem, columns=["key", "status"]).to_pylist()
    bad.update(row["status"] if row["status"] in FAILED else FAILED[0] for row in rows if row["status"] != "success")
    return {row["key"] for row in rows if row["status"] == "success"}
