"""Record batches of a parquet file, of so few rows that their values fit into memory.

The size of a file says nothing about that of its values: thousands of rows may name one long dictionary entry, and
equal values compress to almost nothing. Before a row group is read, its footer says how large its values are, and a
look at its dictionaries how long an entry can be. What is not bounded is a page, which pyarrow reads whole: the format
allows 2 GB, writers make about 1 MB of it.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.fs
import pyarrow.parquet as pq

from emage.utils.errors import InputError

pc: Any = pyarrow.compute  # made at import, so that type checkers do not see its functions
MAX_ROWS = 1_024  # per batch; more are not faster
BATCH_BYTES = 128 << 20
BUFFER_BYTES = 8 << 20  # of a column that are read at a time, in place of the whole of it in a row group
LONG_ENTRY = 64 << 10  # bytes of a dictionary entry from which on its copies are avoided
MAX_MEAN = 16 << 20  # bytes per row of a row group; more is no table of captions


def read_batches(
    filesystem: pyarrow.fs.FileSystem, file: str, columns: list[str], row_groups: tuple[int, ...] | None
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of these columns of a file, or of some of its row groups.

    Columns with long dictionary entries are returned as dictionaries.

    Raises:
        InputError: The rows of a row group are larger than those of any table of captions.
    """
    with filesystem.open_input_file(file) as stream:
        table = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES)
        leaves = [i for i in range(len(table.schema)) if table.schema.column(i).path in columns]
        for group in range(table.num_row_groups) if row_groups is None else row_groups:
            metadata = table.metadata.row_group(group)
            chunks = [chunk for chunk in map(metadata.column, leaves) if chunk.physical_type == "BYTE_ARRAY"]
            total = sum(chunk.total_uncompressed_size for chunk in chunks)
            if total > MAX_MEAN * metadata.num_rows:
                text = f"row group {group} has {total >> 20:,} MB of texts in {metadata.num_rows:,} rows"
                raise InputError(f"{file}: {text}; a table of captions has no such values")
            # Values outside dictionaries: one batch may have the most of them.
            rows = min(MAX_ROWS, MAX_ROWS * BATCH_BYTES // max(total, 1))
            names = [chunk.path_in_schema for chunk in chunks if chunk.has_dictionary_page]
            entries = {name: _longest_entry(table.metadata, stream, group, name) for name in names}
            long = [name for name, length in entries.items() if length > LONG_ENTRY]
            reader = table
            if long and total <= 4 * BATCH_BYTES:  # values outside the dictionary are added to it, and stay in memory
                reader = pq.ParquetFile(stream, metadata=table.metadata, buffer_size=BUFFER_BYTES, read_dictionary=long)
            elif long:
                rows = min(rows, BATCH_BYTES // max(entries.values()))
            yield from reader.iter_batches(batch_size=max(1, rows), columns=columns, row_groups=[group])


def _longest_entry(metadata: pq.FileMetaData, stream: pa.NativeFile, group: int, column: str) -> int:
    """Return the number of bytes of a dictionary's longest entry."""
    table = pq.ParquetFile(stream, metadata=metadata, buffer_size=BUFFER_BYTES, read_dictionary=[column])
    first = next(table.iter_batches(batch_size=1, columns=[column], row_groups=[group]), None)
    if first is None or not pa.types.is_dictionary(first.schema.field(0).type):
        return 0
    return pc.max(pc.binary_length(first.column(0).dictionary)).as_py() or 0
