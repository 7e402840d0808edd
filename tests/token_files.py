"""Hand-made files of token tables, for tests."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from emage.data import schema

INFO = schema.TokenizerInfo("hand-made", "0" * 64, vocab_size=4, grid=(1, 2))


def write_token_file(
    file: Path, rows: list[dict], info: schema.TokenizerInfo = INFO, row_group_size: int = 100
) -> None:
    """Write a file of a token table; values that a row does not have are the same for all rows."""
    file.parent.mkdir(exist_ok=True)
    common = {"dataset": "web", "key": "0", "url": "", "tokens": [0, 0], "width": 64, "height": 48, "sha256": ""}
    table = pa.Table.from_pylist([{**common, **row} for row in rows], schema.token_schema(info, "1.2"))
    pq.write_table(table, file, row_group_size=row_group_size)
