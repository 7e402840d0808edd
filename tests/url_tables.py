"""URL tables in every format, for tests: written from a few rows, read back as pairs."""

import csv
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emage.config import SourceConfig
from emage.data.ingest import url_table
from emage.data.ingest.tables import row_count, table_files
from emage.utils.errors import InputError

PAIR = pa.schema([("url", pa.string()), ("caption", pa.string())])
ROWS = [
    ("http://a.test/1.jpg", "a red bus"),
    ("http://a.test/2.jpg", 'a "quoted" word, and a comma'),
    ("http://a.test/3.jpg", ""),
    ("http://a.test/4.jpg", "öäü ☃ null"),
    ("http://a.test/5.jpg", "12"),
]


def read_pairs(source: SourceConfig) -> list[tuple[str, str]]:
    batches = list(url_table.read(source))
    assert all(len(batch) and batch.schema == PAIR for batch in batches)
    return [(row["url"], row["caption"]) for batch in batches for row in batch.to_pylist()]


def count_rows(source: SourceConfig) -> int:
    """Return the rows of a table's files by the count that is independent of the reader."""
    return sum(row_count.survey(source, file)["rows"] for file in table_files.find_files(source).paths)


def read_and_count(source: SourceConfig) -> tuple[list[tuple[str | None, str]], int, int]:
    """Return the pairs of a table, the number of bad rows, and all rows by the independent count."""
    bad = Counter[str]()
    rows = [(row["url"], row["caption"]) for batch in url_table.read(source, bad=bad) for row in batch.to_pylist()]
    assert set(bad) <= {"bad_row"}
    return rows, bad["bad_row"], count_rows(source)


def write_csv(path: Path, rows: list[tuple[str, ...]], delimiter: str = ",") -> Path:
    quoting = {"quoting": csv.QUOTE_NONE, "quotechar": None} if delimiter == "\t" else {}
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n", **quoting).writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(
    path: Path, rows: list[tuple[str | None, str | None]], names: tuple[str, str] = ("url", "caption")
) -> Path:
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), path)
    return path


def error_of(source: SourceConfig) -> str:
    with pytest.raises(InputError) as error:
        url_table.check(source)
    assert "\n" not in str(error.value)
    return str(error.value)
