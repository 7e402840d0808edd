"""What a kind of input provides: its files, its rows, and the bytes of its images. The modules of this folder do so.

The select stage writes rows; a row of a stored image has an *address*, the place of its bytes within the input: the
name of a file, for example. The download stage reads the bytes at that address where it would fetch a URL. All that
comes behind, from the checks of the bytes on, is the same code for every kind.

An address is written by `read` alone and belongs to one input: no value of a table, a caption file or an archive is
ever opened as a path.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.fs

from emage.config import SourceConfig
from emage.data.ingest.captions.caption_cleaning import MAX_CHARACTERS
from emage.data.ingest.download.fetch_error import FetchError
from emage.data.ingest.tables import column_values
from emage.data.ingest.tables.table_files import TableFiles
from emage.data.ingest.url_table import METADATA_PREFIX, TablePart, metadata_columns

# Drop reasons of rows that never get an address.
NO_CAPTION, NO_IMAGE = "no_caption", "no_image"
OTHER_CAPTIONS = ("text", "captions", "TEXT", "sentences", "title")  # names of source.caption, if none is set

Reserve = Callable[[int], None]  # takes memory for so many bytes; raises FetchError if they are too many
OpenImage = Callable[[str, Reserve], bytes]  # (address, reserve) -> bytes of the image; raises FetchError


class SourceModule(Protocol):
    """The members of a module that is a kind of input."""

    def find_files(self, config: SourceConfig) -> TableFiles:
        """Return the input's files. Raise InputError if it does not exist or is of another kind."""
        ...

    def check(self, config: SourceConfig) -> None:
        """Raise InputError if no row can come of it."""
        ...

    def split(self, config: SourceConfig, table: TableFiles) -> list[TablePart]:
        """Return the parts that one task each reads."""
        ...

    def read(
        self, config: SourceConfig, part: TablePart | None = None, bad: Counter[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a part in batches; count rows that have no image or cannot be read in `bad`, by reason.

        The columns are url, caption (a text, or a list of the texts of one image), those of source.where and
        source.md5 (METADATA_PREFIX) and, if the images are stored, address and group: rows of a group stay together
        in one shard, because reading one image of it costs as much as reading all.
        """
        ...

    def survey(self, config: SourceConfig, file: str) -> dict[str, Any]:
        """Return what identifies a file, {"rows", "sha256"}; `rows`, by another way, is the number `read` must meet."""
        ...


class StoredModule(SourceModule, Protocol):
    """The members of a module whose images are stored where the nodes can read them."""

    def open_images(self, config: SourceConfig) -> OpenImage:
        """Return the function that reads an image. Threads call it at the same time."""
        ...


class StoredImage(NamedTuple):
    """An image of an input, with what is said about it."""

    url: str  # where it comes from, for people, block lists and reports
    address: str
    group: str
    captions: Sequence[str]
    values: Mapping[str, Any] = {}  # by column, for source.where and source.md5


def make_batch(config: SourceConfig, images: Sequence[StoredImage]) -> pa.RecordBatch:
    """Return images as a batch of `read`. Captions are cut and missing ones left out, as those of tables are."""
    texts = column_values.json_column([text for image in images for text in image.captions])
    texts = column_values.texts(texts, MAX_CHARACTERS)
    ends = [0]
    for image in images:
        ends.append(ends[-1] + len(image.captions))
    columns: dict[str, Any] = {
        name: column_values.json_column([getattr(image, name) for image in images])
        for name in ("url", "address", "group")
    }
    columns["caption"] = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), texts)
    for name in metadata_columns(config):
        values = (image.values.get(name) for image in images)
        column = [column_values.as_text(value) for value in values]
        columns[METADATA_PREFIX + name] = column_values.metadata(column_values.json_column(column))
    return pa.record_batch(columns)


def caption_columns(config: SourceConfig, names: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of the caption: those of source.caption or, if that was left alone, the first usual name."""
    names = set(names)
    if config.caption == SourceConfig.caption and not names.issuperset(config.caption):
        return next(((name,) for name in OTHER_CAPTIONS if name in names), config.caption)
    return config.caption


def captions_of(config: SourceConfig, values: Mapping[str, Any]) -> list[str]:
    """Return the captions that a JSON object has for an image: one, or those of a list."""
    columns = caption_columns(config, values)
    found = [values.get(column) for column in columns]
    if len(found) == 1 and isinstance(found[0], list):
        return [text for value in found[0] if (text := column_values.as_text(value))]
    text = " ".join(text for value in found if (text := column_values.as_text(value)))
    return [text] if text else []


def read_file(filesystem: pyarrow.fs.FileSystem, path: str, reserve: Reserve, start: int = 0, size: int = -1) -> bytes:
    """Return the bytes of a file, or `size` of them from `start` on.

    Raises:
        FetchError: no_image, empty, too_big or unreadable_file.
        Exception: Of a storage that fails: unlike the web, it is expected to work.
    """
    try:
        with filesystem.open_input_file(path) as file:
            size = file.size() - start if size < 0 else size
            reserve(size)
            data = file.read_at(size, start)
    except FileNotFoundError:
        raise FetchError(NO_IMAGE) from None
    except OSError:
        if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
            raise FetchError("unreadable_file") from None
        raise
    if not data:
        raise FetchError("empty")
    if len(data) < size:
        raise FetchError("truncated")
    return data
