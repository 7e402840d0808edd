"""Samples of a token table for `emage inspect`: the files' footers, and random rows.

token_table.py reads all rows, in training order; this module reads a few rows once, from a folder of this machine.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emage.data import schema
from emage.utils.errors import InputError, first_line

COLUMNS = ["uid", "caption", "tokens", "width", "height"]  # of a sample


class TokenFile(NamedTuple):
    """A file of a token table, as its footer describes it."""

    path: str
    bytes: int  # size of the file
    group_rows: list[int]  # rows of each row group

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(self.group_rows)


@contextmanager
def explain_read_errors(file: str) -> Iterator[None]:
    """Turn an error of pyarrow about a damaged file into an InputError that names the file."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)}); ingest again to replace it") from None


def read_footer(file: str, info: schema.TokenizerInfo) -> TokenFile:
    """Return a file's size and row groups, after a check that it belongs to the table.

    Args:
        file: The path.
        info: The tokenizer of the table's first file.

    Raises:
        InputError: The file is damaged, has other columns, or was made by another tokenizer.
    """
    with explain_read_errors(file):
        metadata = pq.read_metadata(file)
        columns = metadata.schema.to_arrow_schema()
    try:
        if (other := schema.read_tokenizer_info(columns)) != info:
            raise InputError(f"{file} was made by {other}, the first file by {info}; keep one table per folder")
    except ValueError as error:
        raise InputError(f"{file}: not a file of a token table ({error}); pipelines/ingest.py writes one") from None
    if not columns.equals(schema.token_schema(info, "")):  # without their metadata
        raise InputError(f"{file}: its columns are not those of a token table (it has: {', '.join(columns.names)})")
    group_rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return TokenFile(file, Path(file).stat().st_size, group_rows)


def sample_rows(
    files: Iterable[TokenFile], num_rows: int, seed: int, *, max_per_group: int | None = None
) -> Iterator[pa.Table]:
    """Yield tables (COLUMNS) of random rows from row groups in random order, `num_rows` rows in all.

    Args:
        files: The table's files.
        num_rows: The number of rows, at most those of the table.
        seed: Decides which rows.
        max_per_group: Maximum number of rows from one row group; None: whole groups, so that the fewest are read.
    """
    rng = np.random.default_rng(seed)
    groups = [(file.path, i) for file in files for i in range(len(file.group_rows))]
    for index in rng.permutation(len(groups)):
        name, i = groups[index]
        with explain_read_errors(name), pq.ParquetFile(name, page_checksum_verification=True) as file:
            table = file.read_row_group(i, columns=COLUMNS)
        most = min(num_rows, max_per_group or num_rows)
        if len(table) > most:
            table = table.take(np.sort(rng.choice(len(table), most, replace=False)))
        yield table
        num_rows -= len(table)
        if not num_rows:
            return


def token_array(table: pa.Table) -> np.ndarray:
    """Return the tokens of a sample: (rows, N) uint16."""
    return table["tokens"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
