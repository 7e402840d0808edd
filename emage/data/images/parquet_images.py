"""Images in parquet files, in the column `image`.

A row has an image file's bytes, or a struct with them in the field `bytes`, as the Hugging Face hub stores images.
"""

from functools import lru_cache
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from emage.utils.errors import InputError, first_line

COLUMN = "image"

_lock = Lock()  # or several threads would decode the same row group


def rows(path: Path) -> list[tuple[int, int]] | None:
    """Return row group and index in it of every row; None if the file has no images, but captions or tokens.

    Raises:
        InputError: It is no parquet file, or a damaged one.
    """
    try:
        with pq.ParquetFile(path) as file:
            if COLUMN not in file.schema_arrow.names or not holds_bytes(file.schema_arrow.field(COLUMN).type):
                return None
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: unreadable parquet file ({first_line(error)})") from None
    return [(group, index) for group, size in enumerate(sizes) for index in range(size)]


def read(path: Path, group: int, index: int) -> bytes:
    """Return the bytes of an image; none if the row has no image. Raise OSError if the file is damaged."""
    try:
        with _lock:
            column = _column(path, group)
    except pa.ArrowException as error:
        raise OSError(f"{path}: {error}") from None
    return column[index].as_py() or b""


def holds_bytes(kind: pa.DataType) -> bool:
    """Return True if a column of this type may hold the files of images."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


@lru_cache(maxsize=2)  # rows are read in order
def _column(path: Path, group: int) -> pa.Array:
    with pq.ParquetFile(path) as file:
        column = file.read_row_group(group, columns=[COLUMN])[COLUMN].combine_chunks()
    return column.field("bytes") if pa.types.is_struct(column.type) else column
