"""The files of a token table as `emage inspect` reads them: footers, and a random sample of row groups.

Unlike token_table.py, which reads the rows in training order, everything here is for looking at a table once.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emage.data import schema
from emage.utils.errors import InputError

COLUMNS = ["uid", "caption", "tokens", "width", "height"]  # that a sample has


class TokenFile(NamedTuple):
    """What the footer of a file states."""

    path: str
    bytes: int
    group_rows: list[int]  # rows of each row group

    @property
    def rows(self) -> int:
        return sum(self.group_rows)


@contextmanager
def explain_read_errors(file: str) -> Iterator[None]:
    """Turn what pyarrow raises about a damaged file into an InputError that names the file."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: cannot be read ({str(error).splitlines()[0]}); ingest again to replace it") from None


def read_footer(file: str, info: schema.TokenizerInfo) -> TokenFile:
    """Return a file's size and row groups.

    Raises:
        InputError: The file is damaged, has other columns, or its tokens are not of the tokenizer `info`.
    """
    with explain_read_errors(file):
        metadata = pq.read_metadata(file)
        columns = metadata.schema.to_arrow_schema()
    try:
        if (other := schema.read_tokenizer_info(columns)) != info:
            raise InputError(f"{file} is of {other}, the table's first file of {info}; keep one table per folder")
    except ValueError as error:
        raise InputError(f"{file}: not of a token table ({error}); pipelines/ingest.py writes one") from None
    if not columns.equals(schema.token_schema(info, "")):  # without their metadata
        raise InputError(f"{file}: not the columns of a token table (it has: {', '.join(columns.names)})")
    group_rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return TokenFile(file, Path(file).stat().st_size, group_rows)


def sample_rows(
    files: Iterable[TokenFile], num_rows: int, seed: int, *, max_per_group: int | None = None
) -> Iterator[pa.Table]:
    """Yield random rows (COLUMNS) of row groups in random order, `num_rows` rows in all.

    Args:
        files: The table's files.
        num_rows: At most the table's rows.
        seed: Decides which rows.
        max_per_group: The most rows of one row group; None: groups are used up, which reads the least.
    """
    rng = np.random.default_rng(seed)
    groups = [(file.path, i) for file in files for i in range(len(file.group_rows))]
    for index in rng.permutation(len(groups)):
        name, i = groups[index]
        with explain_read_errors(name), pq.ParquetFile(name) as file:
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
