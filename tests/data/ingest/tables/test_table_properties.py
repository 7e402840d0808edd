"""No row is lost: over generated tables, the rows that are read and the bad ones are those that were written.

The generator knows which rows it writes well and which badly, so that both numbers have a right value.
"""

import csv
import gzip
import io
import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from url_tables import count_rows, read_and_count

from emage.config import SourceConfig
from emage.data.ingest import url_table
from emage.data.ingest.captions.caption_words import MISSING
from emage.data.ingest.tables import table_files
from emage.utils.errors import InputError

URL = st.integers(0, 9).map("http://a.test/{}.jpg".format)
SIGNS = st.sampled_from([*list('""\',;\t \n\r'), '""', '24"', "\u2028", "\x0b", "\x85", "\ufeff", "é", "nan", "\\"])
VALUE = st.lists(SIGNS | st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=8).map("".join)
LINE = VALUE.map(lambda text: text.replace("\n", "").replace("\r", ""))


def written(value: str) -> bytes:
    """Return a value as a row of csv has it, in quotes."""
    return b'"' + value.encode().replace(b'"', b'""') + b'"'


def csv_row(url: str, value: str) -> bytes:
    return url.encode() + b"," + written(value)


# Rows as (bytes without line end, the pair that is to be read or None for a bad row).
GOOD_CSV = st.builds(lambda url, value: (csv_row(url, value), (url, value)), URL, VALUE)
PLAIN_CSV = st.builds(
    lambda url, value: (f"{url},x{value}".encode(), (url, f"x{value}")),
    URL,
    LINE.map(lambda text: text.replace(",", "")),
)
BAD_CSV = st.sampled_from([b"one", b"a,b,c", b"caf\xe9", b",,\xff", b'u,"shut"x', b'"a"b,c'])
OPEN_CSV = st.sampled_from([b'u,"open', b'u,"a""', b'"u,c'])
ONE_LINE_CSV = st.builds(lambda url, value: (csv_row(url, value), (url, value)), URL, LINE)
NOT_UTF8 = st.just((b"http://a.test/,caf\xe9\xff", ("http://a.test/", "caf\ufffd\ufffd")))
TSV_VALUE = LINE.map(lambda text: text.replace("\t", ""))
GOOD_TSV = st.builds(lambda url, value: (f"{url}\t{value}".encode(), (url, value)), URL, TSV_VALUE)
BAD_TSV = st.sampled_from([b"one", b"a\tb\tc", b"\xe9", b'"a', b"\t\t"])
JSON_VALUE = VALUE | st.none() | st.integers() | st.booleans()
GOOD_JSON = st.builds(lambda url, value: {"url": url, "caption": value}, URL, JSON_VALUE)
BAD_JSON = st.sampled_from([b"{", b"[]", b"1", b'{"url": "u"', b"\xff", b'"', b"nan", b'{"a": 1} x', b"\xe2\x80\xa8"])
ENDS = st.sampled_from([b"\n", b"\r\n"])


def tables(good: st.SearchStrategy, bad: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(good | bad.map(lambda row: (row, None)), max_size=12)


def caption_of(value: object) -> str:
    """Return the caption that a value of a table is read as, but for its spellings of missing."""
    if value is None or isinstance(value, bool):
        return ""
    return str(value)


def account(folder: Path, name: str, content: bytes, rows: list, *, counts_agree: bool = True) -> None:
    """Assert that the well written rows are read, the others counted, and that both counts of all rows agree."""
    file = folder / name
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found, bad, counted = read_and_count(SourceConfig(str(file)))
    good = [(url, "" if caption in MISSING else caption) for url, caption in filter(None, rows)]
    assert found == good
    assert bad == len(rows) - len(good)
    assert not counts_agree or counted == len(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@given(rows=tables(GOOD_CSV | PLAIN_CSV | NOT_UTF8, BAD_CSV), end=ENDS, compressed=st.booleans())
def test_no_row_of_csv_is_lost(folder, rows, end, compressed):
    content = b"url,caption" + end + b"".join(row + end for row, _ in rows)
    account(folder, "t.csv.gz" if compressed else "t.csv", content, [pair for _, pair in rows])


@given(rows=tables(ONE_LINE_CSV | PLAIN_CSV | NOT_UTF8, OPEN_CSV), end=ENDS)
def test_an_open_quote_of_csv_takes_no_other_row(folder, rows, end):
    """A value may close it by chance: the reader notices, a count of lines does not, and the report says so.

    Values have no line breaks here: with them, the quote may be closed just where a value ends.
    """
    content = b"url,caption" + end + b"".join(row + end for row, _ in rows)
    account(folder, "t.csv", content, [pair for _, pair in rows], counts_agree=False)


@given(rows=tables(GOOD_TSV, BAD_TSV), end=ENDS, compressed=st.booleans())
def test_no_row_of_tsv_is_lost(folder, rows, end, compressed):
    content = b"\xef\xbb\xbfurl\tcaption" + end + b"".join(row + end for row, _ in rows)
    account(folder, "t.tsv.gz" if compressed else "t.tsv", content, [pair for _, pair in rows])


@given(rows=tables(GOOD_JSON.map(lambda row: (row, row)), BAD_JSON), end=ENDS, is_ascii=st.booleans())
def test_no_row_of_jsonl_is_lost(folder, rows, end, is_ascii):
    lines = [row if pair is None else json.dumps(row, ensure_ascii=is_ascii).encode() for row, pair in rows]
    pairs = [pair and (pair["url"], caption_of(pair["caption"])) for _, pair in rows]
    account(folder, "t.jsonl", b"".join(line + end for line in lines), pairs)


@given(
    rows=st.lists(st.tuples(URL | st.none(), VALUE | st.none()), max_size=40),
    group=st.integers(1, 50),
    with_dictionary=st.booleans(),
)
def test_no_row_of_parquet_is_lost(folder, rows, group, with_dictionary):
    urls, captions = ([row[i] for row in rows] for i in (0, 1))
    table = pa.table({"url": pa.array(urls, pa.string()), "caption": pa.array(captions, pa.string())})
    file = folder / "t.parquet"
    pq.write_table(table, file, row_group_size=group, use_dictionary=with_dictionary)
    found, bad, counted = read_and_count(SourceConfig(str(file)))
    assert found == [(url, "" if caption is None or caption in MISSING else caption) for url, caption in rows]
    assert (bad, counted) == (0, len(rows))


@given(content=st.lists(st.binary(max_size=6) | st.sampled_from([b'"', b",", b"\n", b'"\n', b"\r", b'""', b"u,c\n"])))
def test_any_bytes_are_a_table_or_one_line(folder, content):
    for name in ("any.csv", "any.tsv", "any.jsonl"):
        (folder / name).write_bytes(b"url,caption\n" * (name == "any.csv") + b"".join(content))
        source = SourceConfig(str(folder / name), names=("url", "caption") if name == "any.tsv" else ())
        with suppress(InputError):
            found, bad, counted = read_and_count(source)
            if name != "any.csv":  # in csv the two may differ, and the report says so
                assert len(found) + bad == counted
        with suppress(InputError):
            url_table.check(source)


@pytest.fixture(scope="module")
def parquet_bytes() -> bytes:
    file = io.BytesIO()
    columns = {"url": [f"u{n % 9}" for n in range(300)], "caption": [f"caption {n}" for n in range(300)]}
    pq.write_table(pa.table(columns), file, row_group_size=100)
    return file.getvalue()


@given(data=st.data())
def test_a_damaged_parquet_file_is_rows_or_one_line(folder, parquet_bytes, data):
    damaged = bytearray(parquet_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        near_end = st.integers(max(0, len(damaged) - 700), len(damaged) - 1)  # the footer, which describes the rest
        place = data.draw(st.integers(0, len(damaged) - 1) | near_end)
        damaged[place] = data.draw(st.integers(0, 255))
    file = folder / "damaged.parquet"
    file.write_bytes(damaged[: data.draw(st.sampled_from([len(damaged), 4, 100, len(damaged) - 8]))])
    source = SourceConfig(str(file))
    files = table_files.find_files(source)
    for use in (
        lambda: url_table.check(source),
        lambda: url_table.split(source, files),
        lambda: list(url_table.read(source)),
        lambda: count_rows(source),
    ):
        try:
            use()
        except InputError as error:
            assert "\n" not in str(error) and "damaged.parquet: " in str(error)


def test_the_generated_csv_is_what_the_csv_module_reads():
    """The generator itself: a well written row is the same for Python's reader."""
    value = 'a "b",\nc'
    assert next(csv.reader(io.StringIO(csv_row("u", value).decode(), newline=""))) == ["u", value]
