"""Accounts close: rows that were read + bad rows = rows that a count by another way finds, in every format."""

import bz2
import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from url_tables import ROWS, count_rows, read_and_count

from emage.config import SourceConfig
from emage.data.ingest.tables import row_count

COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": lambda data: pa.compress(data, "zstd", True)}


def table_of(format: str) -> tuple[bytes, int]:
    """Return a table of 200 rows, of which some are bad in text formats, and their number."""
    good = [(f"http://a.test/{n}.jpg", ROWS[n % 5][1]) for n in range(180)]
    if format == "parquet":
        file = io.BytesIO()
        urls, captions = zip(*good, *[("u", None)] * 20, strict=True)
        pq.write_table(pa.table({"url": urls, "caption": captions}), file, row_group_size=70)
        return file.getvalue(), 0
    if format == "jsonl":
        lines = [json.dumps({"url": url, "caption": caption + "\n\u2028"}) for url, caption in good]
        lines[20:20] = ["[]", "{", "", "  \t"] * 10
        return "\n".join(lines).encode(), 20
    text = io.StringIO(newline="")
    if format == "csv":
        csv.writer(text, lineterminator="\n").writerows([("url", "caption"), *good[:90]])
        text.write("one\na,b,c\n" * 5 + 'u,"open\n\n' + 'u,"two\n\nlines"\n' * 9 + '"q""\n')
        csv.writer(text, lineterminator="\r\n").writerows([*good[90:], ("u", "quoted\r\n\r\nlines, or so")])
        return text.getvalue().encode() + b"last,one\xff,bad", 10 + 1 + 1 + 1
    text.write("url\tcaption\n" + "".join(f"{url}\t{caption}\n" for url, caption in good))
    return text.getvalue().encode() + b"bad\n\n" * 10 + b"a\tb\tc\r\n" * 9 + b"a\t\xff\tc", 20


@pytest.mark.parametrize(
    ("format", "suffix"),
    [("parquet", ""), *((format, suffix) for format in ("csv", "tsv", "jsonl") for suffix in ("", *COMPRESS))],
)
def test_rows_read_are_rows_counted(tmp_path, format, suffix, monkeypatch):
    content, num_bad = table_of(format)
    (tmp_path / f"t.{format}{suffix}").write_bytes(COMPRESS.get(suffix, bytes)(content))
    source = SourceConfig(str(tmp_path / f"t.{format}{suffix}"))
    for block in (row_count.BLOCK_BYTES, 7, 64):  # lines, and the two bytes of a line end, lie across blocks
        monkeypatch.setattr(row_count, "BLOCK_BYTES", block)
        rows, bad, counted = read_and_count(source)
        assert (len(rows) + bad, bad) == (counted, num_bad)
    assert counted == 203 if format == "csv" else 200


def test_two_gzip_members_are_one_table(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"url,caption\nu1,a\n") + gzip.compress(b"u2,b\n"))
    rows, bad, counted = read_and_count(SourceConfig(str(tmp_path / "t.csv.gz")))
    assert (rows, bad, counted) == ([("u1", "a"), ("u2", "b")], 0, 2)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"", 0),
        (b"url,caption", 0),
        (b"\xef\xbb\xbfurl,caption\r\nu,c", 1),
        (b"\xef\xbb\xbf\r\n\r\nurl,caption\r\n\r\nu,c\r\n\r\n", 1),
        (b'url,caption\nu,"a\nb"\n', 1),
        (b'url,caption\nu,"a\nb","c\n\nd"\nu,c\n', 2),
        (b'url,caption\nu,"a\nb\n\nc\n', 3),  # never closed: each line is a row
        (b'url,caption\nu,"a\nb" c\nu,d\n', 3),  # not closed as it should be
        (b'url,caption\nu,"a\nb,"" c\n"\nu,d\n', 2),
        (b'url,caption\nu,24" screen\nu,b\n', 2),
    ],
)
def test_rows_of_csv(tmp_path, content, rows):
    (tmp_path / "t.csv").write_bytes(content)
    assert count_rows(SourceConfig(str(tmp_path / "t.csv"))) == rows


def test_a_line_that_never_ends_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(row_count, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(row_count, "BLOCK_BYTES", 64)
    (tmp_path / "t.tsv").write_bytes(b"url\tcaption\n" + b"x" * 10_000 + b"\nu\tc\n")
    assert count_rows(SourceConfig(str(tmp_path / "t.tsv"))) == 2
