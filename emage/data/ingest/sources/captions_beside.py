"""Captions in files beside the images of a folder: which files they are, and what they say about which image.

    a.jpg + a.txt, a.caption     the text is the caption
    a.jpg + a.json               an object: source.caption names its key, by default caption, or else text
    metadata.csv, .jsonl, .parquet    Hugging Face's table: file_name, a path from the table's folder on, and text
    captions*.json               COCO's: images by file_name, and any number of captions each

If several speak of one image, a table goes before a file of its own. All captions of the tables count: two rows on one
image are two captions.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import pyarrow.fs
import pyarrow.parquet as pq

from emage.config import SourceConfig
from emage.data.ingest import url_table
from emage.data.ingest.sources.base import caption_columns, captions_of
from emage.data.ingest.tables import table_files, text_rows
from emage.data.ingest.tables.text_lines import open_text
from emage.data.ingest.url_table import METADATA_PREFIX, TablePart
from emage.utils import storage
from emage.utils.errors import InputError

BESIDE = (".txt", ".caption", ".json")  # of one image, the first that has a caption counts
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
COCO = "captions*.json"
FILE_NAME = "file_name"  # the column with the image, unless source.url names another
MAX_TEXT = 1 << 20  # bytes of a file with the caption of one image
NAMES_FROM = 100  # rows of a jsonl table in which its columns are looked for


@dataclass(frozen=True)
class CaptionFiles:
    """The files with captions, by name; `beside` has those of one image by the image's name without its ending."""

    files: dict[str, pyarrow.fs.FileInfo]
    beside: dict[str, list[pyarrow.fs.FileInfo]]
    tables: list[str]
    coco: list[str]


@dataclass
class Said:
    """What is said about an image: its captions, and the values that source.where and source.md5 look at."""

    captions: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


def find(images: Collection[str], others: Mapping[str, pyarrow.fs.FileInfo]) -> CaptionFiles:
    """Return the files with captions among the files of a folder that are no images. Names are paths within it."""
    stems = {_stem(name) for name in images}
    found = CaptionFiles({}, defaultdict(list), [], [])
    for name, info in others.items():
        base, suffix = PurePosixPath(name).name, PurePosixPath(name).suffix.lower()
        if suffix in BESIDE and _stem(name) in stems:
            found.beside[_stem(name)].append(info)
        elif base in TABLES:
            found.tables.append(name)
        elif fnmatch(base, COCO):
            found.coco.append(name)
        else:
            continue
        found.files[name] = info
    return found


def check(config: SourceConfig, filesystem: pyarrow.fs.FileSystem, captions: CaptionFiles) -> None:
    """Raise InputError if a table of captions has no column for the image or the caption, or is not readable."""
    for name in captions.tables:
        table, path = _as_url_table(config, filesystem, captions.files[name].path)
        next(url_table.read(table, TablePart(path, name)), None)


def read_beside(
    config: SourceConfig, filesystem: pyarrow.fs.FileSystem, beside: Mapping[str, list[pyarrow.fs.FileInfo]], image: str
) -> Said:
    """Return what the files of one image say; nothing if there are none, or none can be read."""
    contents = []
    for info in beside.get(_stem(image), ()):
        with storage.explain_errors(info.path), filesystem.open_input_stream(info.path, compression=None) as stream:
            contents.append((PurePosixPath(info.path).suffix.lower(), stream.read(MAX_TEXT)))
    return read_contents(config, contents)


def read_contents(config: SourceConfig, contents: Iterable[tuple[str, bytes]]) -> Said:
    """Return what files about one image say, by their endings (those of BESIDE) and contents.

    A text goes before an object, unless source.caption names a key that the object has.
    """
    said, texts, in_object = Said(), [], []
    for ending, data in sorted(contents, key=lambda item: BESIDE.index(item[0])):
        if ending == ".json":
            said.values = parse_object(decode(data))
            in_object = captions_of(config, said.values)
        elif text := decode(data):
            texts.append(text)
    is_named = config.caption != SourceConfig.caption and in_object
    said.captions = in_object if is_named else texts[:1] or in_object
    return said


def decode(data: bytes) -> str:
    """Return the text of a file: UTF-8, or UTF-16 if it begins as that does. What is neither becomes U+FFFD."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return data.decode(encoding, errors="replace").strip()


def parse_object(text: str) -> dict[str, Any]:
    """Return a JSON object; an empty one if the text is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_tables(
    config: SourceConfig,
    filesystem: pyarrow.fs.FileSystem,
    captions: CaptionFiles,
    images: Collection[str],
    bad: Counter[str],
) -> dict[str, Said]:
    """Return what the tables and COCO's files say, by the image's name; names that are no image are among them.

    Rows of a table that cannot be read are counted in `bad`.

    Raises:
        InputError: A file is damaged or has no such columns.
    """
    said: dict[str, Said] = defaultdict(Said)
    for name in captions.tables:
        table, path = _as_url_table(config, filesystem, captions.files[name].path)
        folder = PurePosixPath(name).parent
        for batch in url_table.read(table, TablePart(path, name), bad):
            for row in batch.to_pylist():
                about = said[str(folder / (row.pop("url") or ""))]
                caption = row.pop("caption")
                about.captions += caption if isinstance(caption, list) else [caption] if caption else []
                about.values |= {column.removeprefix(METADATA_PREFIX): value for column, value in row.items()}
    by_base = _by_base_name(images)
    for name in captions.coco:
        for file_name, texts in _read_coco(filesystem, captions.files[name].path).items():
            beside = str(PurePosixPath(name).parent / file_name)
            said[beside if beside in images else by_base.get(file_name, file_name)].captions += texts
    return said


def _as_url_table(config: SourceConfig, filesystem: pyarrow.fs.FileSystem, path: str) -> tuple[SourceConfig, str]:
    """Return a table of captions as a table whose "URLs" are the names of files: it is read by the same code."""
    settings = replace(config, format="auto", names=())
    with table_files.explain_read_errors(settings, path):
        names = _column_names(filesystem, path)
    named = config.url if config.url != SourceConfig.url and config.url in names else FILE_NAME
    return replace(settings, url=named, caption=caption_columns(config, names)), path


def _column_names(filesystem: pyarrow.fs.FileSystem, path: str) -> list[str]:
    if path.endswith(".parquet"):
        return pq.read_schema(path, filesystem=filesystem).names
    if path.endswith(".csv"):
        with open_text(filesystem, path) as lines:
            return next(text_rows.csv_rows(lines, Counter(), None, 0), [])
    with open_text(filesystem, path, only_line_feeds=True) as lines:
        rows = islice(text_rows.jsonl_rows(lines, Counter()), NAMES_FROM)
        return list(dict.fromkeys(name for _, row in rows for name in row))


def _read_coco(filesystem: pyarrow.fs.FileSystem, path: str) -> dict[str, list[str]]:
    """Return the captions of a COCO file by the name of the image's file."""
    with storage.explain_errors(path), filesystem.open_input_stream(path, compression=None) as stream:
        data = stream.read()
    try:
        content = json.loads(data)
        names = {image["id"]: image["file_name"] for image in content["images"]}
        captions: dict[str, list[str]] = {name: [] for name in names.values()}
        for annotation in content["annotations"]:
            captions[names[annotation["image_id"]]].append(annotation["caption"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        has = "images with id and file_name, annotations with image_id and caption"
        raise InputError(f"{path}: not COCO's captions ({has}): {error!r}") from None
    return captions


def _by_base_name(images: Iterable[str]) -> dict[str, str]:
    """Return the images whose name without its folders is unique, by that name."""
    counts = Counter(PurePosixPath(image).name for image in images)
    return {base: image for image in images if counts[base := PurePosixPath(image).name] == 1}


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
