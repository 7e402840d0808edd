"""Rows of csv and tsv: quotes that are not closed, lines too long, other separators; no row takes another along."""

import gzip

import pytest
from url_tables import error_of, read_and_count

from emage.config import SourceConfig
from emage.data.ingest.tables import text_lines


def url(n: int) -> str:
    return f"http://shop.test/{n}.jpg"


def read(path, text: str | bytes, **settings):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_and_count(SourceConfig(str(path), **settings))


def table(captions: list[str]) -> str:
    return "url,caption\n" + "".join(f"{url(n)},{caption}\n" for n, caption in enumerate(captions))


@pytest.mark.parametrize(
    ("captions", "bad"),
    [
        (["a", '"wide screen', "b", "c"], [1]),  # never closed
        (["a", '"wide screen', "b", '"tall screen', "c"], [1, 3]),  # the second one closes the first, then text follows
        (["a", '"Best" shoe', "b"], [1]),
        (["a", '"wide screen', "b", 'screen of 24"', "c"], [1]),  # the inch mark closes it: rows b are inside the value
        (["a", "b", '"'], [2]),
    ],
)
def test_a_quote_that_is_not_closed_is_one_bad_row(tmp_path, captions, bad):
    rows, num_bad, counted = read(tmp_path / "t.csv", table(captions))
    expected = [(url(n), caption) for n, caption in enumerate(captions) if n not in bad]
    assert (rows, num_bad) == (expected, len(bad))
    if 'screen of 24"' not in captions:  # a count of the lines cannot know that
        assert counted == len(captions)


def test_a_thousand_open_quotes(tmp_path):
    rows, bad, counted = read(tmp_path / "t.csv", table(['"open' if n % 2 else "closed" for n in range(2_000)]))
    assert (len(rows), bad, counted) == (1_000, 1_000, 2_000)


def test_quoted_values_with_line_breaks(tmp_path):
    values = ["two\nlines", 'a "word", and\r\n\r\nmore', "http://shop.test/9.jpg\nseen", ",\n,", ""]
    quoted = ['"' + value.replace('"', '""') + '"' for value in values] + ['12" pipe']
    rows, bad, counted = read(tmp_path / "t.csv", table(quoted))
    assert [caption for _, caption in rows] == [*values, '12" pipe']
    assert (bad, counted) == (0, 6)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_only_line_ends_separate_rows(tmp_path, name):
    caption = "a\u2028b\u2029c\x0bd\x0ce\x85f\x1cg"
    separator = "," if name == "t.csv" else "\t"
    lines = [f"url{separator}caption", f"u1{separator}{caption}", "", f"u2{separator}b", f"u3{separator}c"]
    for end in ("\n", "\r\n", "\r"):
        rows, bad, counted = read(tmp_path / name, "\ufeff" + end.join(lines))
        assert rows == [("u1", caption), ("u2", "b"), ("u3", "c")]
        assert (bad, counted) == (0, 3)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_row_that_is_ragged_and_not_utf8_is_bad_alone(tmp_path, name):
    content = b"url,caption\nu1,a\nu2,caf\xe9,more\nu3\xff\nu4,\xc3(\nu5,b\n"
    if name == "t.tsv":
        content = content.replace(b",", b"\t")
    rows, bad, counted = read(tmp_path / name, content)
    assert rows == [("u1", "a"), ("u4", "\ufffd("), ("u5", "b")]
    assert (bad, counted) == (2, 5)


def test_tsv_has_no_quotes(tmp_path):
    rows, bad, counted = read(tmp_path / "t.tsv", 'u1\t"open\nu2\tb"\nu3\t""\n', names=("url", "caption"))
    assert rows == [("u1", '"open'), ("u2", 'b"'), ("u3", '""')]
    assert (bad, counted) == (0, 3)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_a_line_too_long_is_a_bad_row(tmp_path, name, monkeypatch):
    monkeypatch.setattr(text_lines, "MAX_LINE", 1_000)
    pair = {"t.csv": "{},{}\n", "t.tsv": "{}\t{}\n", "t.jsonl": '{{"url": "{}", "caption": "{}"}}\n'}[name]
    rows = [("u1", "a"), ("u2", "b" * 3_000), ("u3", "c"), ("u4", "d" * 960)]
    head = "" if name == "t.jsonl" else pair.format("url", "caption")
    found, bad, counted = read(tmp_path / name, head + "".join(pair.format(*row) for row in rows))
    assert found == [rows[0], *rows[2:]]
    assert (bad, counted) == (1, 4)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (gzip.compress(b"url,caption\n"), "its bytes are gzip; let its name end in .gz"),
        ("url,caption\n".encode("utf-16"), "its text is UTF-16; save it as UTF-8"),
        (b"PK\x03\x04....", "save it as csv"),
        (b"PAR1....", "set source.format=parquet"),
    ],
)
def test_a_file_that_is_no_text_is_named(tmp_path, content, text):
    (tmp_path / "t.csv").write_bytes(content)
    assert text in error_of(SourceConfig(str(tmp_path / "t.csv")))


def test_a_column_that_is_there_twice(tmp_path):
    (tmp_path / "t.csv").write_text("url,caption,caption\nu,a,b\n")
    assert "2 columns are called 'caption' (source.caption)" in error_of(SourceConfig(str(tmp_path / "t.csv")))
