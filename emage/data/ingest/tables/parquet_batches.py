"""Record batches of a parquet file, of so few rows that their values fit into memory.

The size of a file says nothing about that of its values: thousands of rows may name one long dictionary entry, values
may be parts of each other, and equal values compress to almost nothing. Before a row group is read, the headers of its
pages say how large they are, and a look at its dictionaries how long an entry can be.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.fs
import pyarrow.parquet as pq

from emage.data.ingest.tables import parquet_pages
from emage.data.ingest.tables.parquet_pages import Pages
from emage.utils.errors import InputError

pc: Any = pyarrow.compute  # made at import, so that type checkers do not see its functions
MAX_ROWS = 1_024  # per batch; more are not faster
BATCH_BYTES = 128 << 20
BUFFER_BYTES = 8 << 20  # of a column that are read at a time, in place of the whole of it in a row group
# Writers make pages and dictionaries of 1 MB, some pages of 100 MB. What pyarrow keeps of a dictionary with short
# entries takes ten times its size.
MAX_PAGE_BYTES = 128 << 20  # of the largest pages of all columns together
MAX_IMAGE_PAGE_BYTES = 1 << 30  # of the largest page and the dictionary: some writers put a thousand images into one
MAX_DICTIONARY_BYTES = 32 << 20  # of the dictionaries of all columns together
MAX_LIST_BYTES = 4 * BATCH_BYTES  # of all values in lists: they may be those of one row
MAX_MEAN = 16 << 20  # bytes per row of a row group; more is no table of captions


def read_batches(
    filesystem: pyarrow.fs.FileSystem,
    file: str,
    columns: list[str],
    row_groups: tuple[int, ...] | None,
    are_images: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of these columns of a file, or of some of its row groups.

    Args:
        filesystem: Where the file is.
        file: Its path there.
        columns: The columns, or fields of structs (image.bytes).
        row_groups: None: all.
        are_images: The values are images, so that pages and dictionaries of many of them are large.

    Raises:
        InputError: Pages or rows of a row group are larger than those of any table of captions, or of images.
        ValueError: The header of a page is damaged.
    """
    with filesystem.open_input_file(file) as stream:
        table = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES)
        for group in range(table.num_row_groups) if row_groups is None else row_groups:
            largest = MAX_IMAGE_PAGE_BYTES if are_images else MAX_DICTIONARY_BYTES
            with_sizes = _read_sizes(table, stream, group, columns, largest)
            find_problem = _find_problem_of_images if are_images else _find_problem
            if problem := find_problem(with_sizes, table.metadata.row_group(group).num_rows):
                kind = "images" if are_images else "captions"
                raise InputError(f"{file}: row group {group} has {problem}; a table of {kind} has no such values")
            rows = _rows_per_batch(with_sizes)
            for batch in table.iter_batches(batch_size=rows, columns=columns, row_groups=[group]):
                yield _without_dictionaries(batch)


@dataclass(frozen=True)
class _ColumnSize:
    """What the values of a column may take in memory."""

    pages: Pages
    longest: int  # bytes of the longest entry of the dictionary
    in_lists: bool  # a row has any number of values

    @property
    def in_one_list(self) -> int:
        """Bytes of a row that has all values of a column of lists."""
        all_copied = self.pages.copied * sum(number for number, _ in self.pages.data)
        return (self.pages.plain + self.pages.indices * self.longest + all_copied) if self.in_lists else 0


def _read_sizes(
    table: pq.ParquetFile, stream: pa.NativeFile, group: int, columns: list[str], max_dictionary: int
) -> list[_ColumnSize]:
    """Return the sizes of the columns in one row group; the parts of a nested column are several.

    A dictionary of over `max_dictionary` bytes is not looked at: it counts as one entry.
    """
    found = []
    metadata = table.metadata.row_group(group)
    for chunk in map(metadata.column, range(metadata.num_columns)):
        path = chunk.path_in_schema
        name = next((name for name in columns if path == name or path.startswith(f"{name}.")), None)
        if name is None:
            continue
        pages, longest = parquet_pages.read(stream, chunk), 0
        type = _type_of(table.schema_arrow, name)
        if pa.types.is_dictionary(type if path == name else getattr(type, "value_type", type)):
            pages.dictionary += pages.plain  # pyarrow adds all values to it
        if pages.dictionary > max_dictionary:
            longest = pages.dictionary  # too large to look at
        elif pages.dictionary and chunk.physical_type == "BYTE_ARRAY":
            longest = _longest_entry(table.metadata, stream, group, path)
        found.append(_ColumnSize(pages, longest, in_lists=path != name))
    return found


def _type_of(schema: pa.Schema, name: str) -> pa.DataType:
    """Return the type of a column or, of STRUCT.FIELD, of a field."""
    if name in schema.names:
        return schema.field(name).type
    column, _, inner = name.partition(".")
    struct: Any = schema.field(column).type
    return struct.field(inner).type


def _find_problem_of_images(columns: list[_ColumnSize], num_rows: int) -> str | None:
    """Return why a row group with images is not read, None if it is."""
    largest = sum(column.pages.largest + column.pages.dictionary for column in columns)
    most = f"at most {MAX_IMAGE_PAGE_BYTES >> 20:,} MB are read: write the table with smaller row groups"
    return f"pages that unpack to {largest >> 20:,} MB ({most})" if largest > MAX_IMAGE_PAGE_BYTES else None


def _find_problem(columns: list[_ColumnSize], num_rows: int) -> str | None:
    """Return why a row group is not read, None if it is."""
    largest = sum(column.pages.largest for column in columns)
    if largest > MAX_PAGE_BYTES:
        return f"pages that unpack to {largest >> 20:,} MB (at most {MAX_PAGE_BYTES >> 20} MB are read)"
    dictionaries = sum(column.pages.dictionary for column in columns)
    if dictionaries > MAX_DICTIONARY_BYTES:
        return f"dictionaries of {dictionaries >> 20:,} MB (at most {MAX_DICTIONARY_BYTES >> 20} MB are read)"
    total = sum(column.pages.total for column in columns)
    if total > MAX_MEAN * num_rows:
        return f"{total >> 20:,} MB of texts in {num_rows:,} rows"
    in_one_list = sum(column.in_one_list for column in columns)
    if in_one_list > MAX_LIST_BYTES:
        most = f"at most {MAX_LIST_BYTES >> 20} MB are read: write the table with smaller row groups"
        return f"lists, one of which may hold {in_one_list >> 20:,} MB ({most})"
    return None


def _rows_per_batch(columns: list[_ColumnSize]) -> int:
    """Return the number of rows whose values take no more than a batch may, or about twice the largest pages.

    Those of lists may be in one row: `_find_problem` bounds them.
    """
    single = [column for column in columns if not column.in_lists]
    most = max(BATCH_BYTES, 2 * sum(column.pages.largest for column in single))
    # One batch may have most of the values that are not in dictionaries.
    rows = max(1, min(MAX_ROWS, MAX_ROWS * BATCH_BYTES // max(1, sum(column.pages.total for column in columns))))
    row = sum(column.longest + column.pages.copied for column in single)
    while rows > 1 and (rows * row > BATCH_BYTES or sum(column.pages.most(rows) for column in single) > most):
        rows //= 2
    return rows


def _without_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch with values in place of dictionaries, which hold the entries of all rows of the row group."""

    def plain(column: pa.Array) -> pa.Array:
        if isinstance(column, pa.DictionaryArray):
            return column.dictionary_decode()
        if isinstance(column, pa.ListArray | pa.LargeListArray) and pa.types.is_dictionary(column.type.value_type):
            return type(column).from_arrays(column.offsets, column.values.dictionary_decode(), mask=column.is_null())
        return column

    return pa.RecordBatch.from_arrays([plain(column) for column in batch.columns], names=batch.schema.names)


def _longest_entry(metadata: pq.FileMetaData, stream: pa.NativeFile, group: int, column: str) -> int:
    """Return the number of bytes of a dictionary's longest entry."""
    table = pq.ParquetFile(stream, metadata=metadata, buffer_size=BUFFER_BYTES, read_dictionary=[column])
    first = next(table.iter_batches(batch_size=1, columns=[column], row_groups=[group]), None)
    values: Any = first.column(0) if first else None
    while (is_struct := isinstance(values, pa.StructArray)) or isinstance(values, pa.ListArray | pa.LargeListArray):
        values = values.field(0) if is_struct else values.values
    return (pc.max(pc.binary_length(values.dictionary)).as_py() or 0) if isinstance(values, pa.DictionaryArray) else 0
