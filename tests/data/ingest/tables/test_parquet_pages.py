"""Sizes of pages, read from their headers: compared with what was written, and with batches of every size."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emage.data.ingest.tables import parquet_pages
from emage.data.ingest.tables.parquet_pages import Pages

TEXTS = [f"caption {n} " + "x" * (n % 50) for n in range(3_000)]


def pages_of(path, values, **options) -> tuple[Pages, pq.ColumnChunkMetaData]:
    pq.write_table(pa.table({"a": values}), path, data_page_size=2_000, write_batch_size=20, **options)
    with pa.OSFile(str(path)) as stream:
        chunk = pq.ParquetFile(stream).metadata.row_group(0).column(0)
        return parquet_pages.read(stream, chunk), chunk


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("format", ["1.0", "2.0"])
def test_plain_values(format, compression, tmp_path):
    values = [*TEXTS, None, None]
    options = {"use_dictionary": False, "data_page_version": format, "compression": compression}
    pages, chunk = pages_of(tmp_path / "t.parquet", values, **options)
    assert len(pages.data) > 30 and sum(number for number, _ in pages.data) == len(values)
    assert 0 < chunk.total_uncompressed_size - pages.total < 200 * len(pages.data)  # the footer's has the headers
    assert pages.plain == pages.total and pages.dictionary == pages.copied == 0
    assert 2_000 <= pages.largest < 5_000


def test_a_dictionary(tmp_path):
    pages, _ = pages_of(tmp_path / "t.parquet", TEXTS[:100] * 50)
    assert pages.dictionary == sum(4 + len(text) for text in TEXTS[:100])  # PLAIN: a length of four bytes, the text
    assert pages.plain == 0 and sum(number for number, _ in pages.data) == 5_000


def test_a_dictionary_that_became_too_large_for_the_writer(tmp_path):
    pages, _ = pages_of(tmp_path / "t.parquet", TEXTS, dictionary_pagesize_limit=10_000)
    assert 0 < pages.plain < pages.total - pages.dictionary


def test_values_that_are_parts_of_each_other(tmp_path):
    options = {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}
    pages, _ = pages_of(tmp_path / "t.parquet", TEXTS, **options)
    assert pages.copied == pages.largest > 0


def test_long_statistics(tmp_path):
    """The header holds the least and the greatest value."""
    options = {"use_dictionary": False, "write_page_index": False, "compression": "none"}
    pages, _ = pages_of(tmp_path / "t.parquet", ["a" * 3_000, "b" * 3_000] * 40, **options)
    assert sum(number for number, _ in pages.data) == 80


def test_numbers(tmp_path):
    pages, _ = pages_of(tmp_path / "t.parquet", list(range(4_000)), use_dictionary=False)
    assert 32_000 <= pages.total < 32_000 + 20 * len(pages.data)


def test_most_bytes_of_a_batch():
    """Compared with every batch of a column."""
    draw = random.Random(0)
    for _ in range(300):
        data = [(draw.randint(1, 9), draw.randint(1, 99)) for _ in range(draw.randint(1, 8))]
        owners = [page for page, (number, _) in enumerate(data) for _ in range(number)]
        for rows in (1, 2, 3, 5, 8, 100):
            batches = [set(owners[first : first + rows]) for first in range(len(owners))]
            most = max(sum(data[page][1] for page in batch) for batch in batches)
            assert Pages(data=data).most(rows) == most


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_damaged_header(place, tmp_path):
    path = tmp_path / "t.parquet"
    _, chunk = pages_of(path, TEXTS, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + place] = 0xFF
    path.write_bytes(content)
    with pa.OSFile(str(path)) as stream, pytest.raises(ValueError, match="the header of a page at byte"):
        parquet_pages.read(stream, chunk)
