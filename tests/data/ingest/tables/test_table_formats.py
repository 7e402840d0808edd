"""URL tables in every format give the same pairs; bad rows are counted, and bad files are one line that names them."""

import gzip
from collections import Counter

import pytest
from url_tables import ROWS, count_rows, error_of, read_pairs, write_csv, write_jsonl, write_parquet

from emage.config import SourceConfig
from emage.data.ingest import url_table
from emage.data.ingest.tables import table_formats
from emage.utils.errors import InputError


def test_every_format_gives_the_same_pairs(tmp_path):
    header = [("url", "caption")]
    objects = [{"url": url, "caption": caption, "extra": i if i % 2 else "x"} for i, (url, caption) in enumerate(ROWS)]
    files = [
        write_parquet(tmp_path / "t.parquet", ROWS),
        write_csv(tmp_path / "t.csv", header + ROWS),
        write_csv(tmp_path / "t.tsv", header + ROWS, "\t"),
        write_jsonl(tmp_path / "t.jsonl", objects),
    ]
    (tmp_path / "z.csv.gz").write_bytes(gzip.compress((tmp_path / "t.csv").read_bytes()))
    for file in [*files, tmp_path / "z.csv.gz"]:
        assert read_pairs(SourceConfig(table=str(file))) == ROWS, file
    assert [count_rows(SourceConfig(table=str(file))) for file in files] == [5] * 4


def test_a_bad_row_of_text_is_skipped_alone(tmp_path):
    lines = [b"url\tcaption", b"u1\tc1", b"u2\tc\t2", b"u3", b"u4\tcaf\xe9 \xff", b"u5\t"]
    good = [("u1", "c1"), ("u4", "caf\ufffd \ufffd"), ("u5", "")]
    (tmp_path / "t.tsv").write_bytes(b"\n".join(lines))
    (tmp_path / "t.csv").write_bytes(b"\n".join(lines).replace(b"\t", b","))
    (tmp_path / "none.tsv").write_bytes(b"\n".join(lines[1:]))
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    for file, settings in (("t.tsv", {}), ("t.csv", {}), ("t.tsv.gz", {}), ("none.tsv", {"names": ("url", "caption")})):
        source, bad = SourceConfig(str(tmp_path / file), **settings), Counter()
        url_table.check(source)
        rows = [(row["url"], row["caption"]) for batch in url_table.read(source, bad=bad) for row in batch.to_pylist()]
        assert rows == good == read_pairs(source)
        assert bad == {"bad_row": 2} and count_rows(source) == 5
    (tmp_path / "t.tsv").write_bytes(b"url\tcaption\nu1\tc\t1\n")
    assert "no row has as many columns as there are names" in error_of(SourceConfig(str(tmp_path / "t.tsv")))


def test_bad_rows_are_counted_in_every_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(table_formats, "BATCH_ROWS", 10)
    write_csv(tmp_path / "t.csv", [("url", "caption"), *[("u", "c"), ("u", "c", "d")] * 500])
    source, bad = SourceConfig(str(tmp_path / "t.csv")), Counter()
    assert [len(batch) for batch in url_table.read(source, bad=bad)] == [10] * 50
    assert bad == {"bad_row": 500}


def test_jsonl_whose_types_change(tmp_path):
    lines = [
        '{"url": "u1", "caption": "c1", "score": 0.5, "nsfw": false}',
        '{"url": "u2", "caption": 12, "score": "0.3", "nsfw": "false"}',
        '{"url": "u3", "caption": null, "score": "n/a", "nsfw": [1]}',
        "",
        '{"url": "u4", "caption": "half \\ud800", "score": true}',
        '{"url": "u5"',
        "[1, 2]",
        "[" * 100_000,
        '{"score": NaN}',
    ]
    (tmp_path / "t.jsonl").write_bytes(("\ufeff" + "\n".join(lines)).encode().replace(b"c1", b"c\xff"))
    source, bad = SourceConfig(str(tmp_path / "t.jsonl"), where=("score>=0.2", "nsfw==false")), Counter()
    url_table.check(source)
    (batch,) = url_table.read(source, bad=bad)
    assert batch["url"].to_pylist() == ["u1", "u2", "u3", "u4", None]
    assert batch["caption"].to_pylist() == ["c\ufffd", "12", "", "half ?", ""]
    score, nsfw = (
        condition.holds(batch[f"meta.{condition.column}"]) for condition in url_table.parse_conditions(source)
    )
    assert score.to_pylist() == nsfw.to_pylist() == [True, True, False, False, False]
    assert bad == {"bad_row": 3}


def test_missing_columns_are_named_with_the_existing_ones(tmp_path):
    for file in (
        write_parquet(tmp_path / "t.parquet", ROWS, ("URL", "caption")),
        write_csv(tmp_path / "t.csv", [("URL", "caption"), *ROWS]),
        write_jsonl(tmp_path / "t.jsonl", [{"URL": "u", "caption": "c"}]),
    ):
        text = error_of(SourceConfig(table=str(file)))
        assert "no column 'url' (source.url); did you mean URL?" in text
        assert "(it has: URL, caption)" in text
    text = error_of(SourceConfig(table=str(tmp_path / "t.csv"), url="URL", caption=("captoin",)))
    assert "no column 'captoin' (source.caption); did you mean caption?" in text


def test_tables_that_cannot_be_read(tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    header = write_csv(tmp_path / "header.csv", [("url", "caption")])
    garbage = tmp_path / "garbage.parquet"
    garbage.write_bytes(b"PAR1 but not really")
    open_quote = tmp_path / "quote.csv"
    open_quote.write_text('"url,caption\nu,c\n')
    truncated = tmp_path / "truncated.csv.gz"
    truncated.write_bytes(gzip.compress(b"url,caption\nu,c\n" * 1000)[:-9])
    list_json = tmp_path / "list.jsonl"
    list_json.write_text("[1, 2]\n")
    deep_json = tmp_path / "deep.jsonl"
    deep_json.write_text("[" * 100_000)
    strange = tmp_path / "table.xlsx"
    strange.write_bytes(b"PK")
    (tmp_path / "none").mkdir()
    assert "no such file or folder" in error_of(SourceConfig(table=str(tmp_path / "absent.parquet")))
    assert "the table has no rows" in error_of(SourceConfig(table=str(empty)))
    assert "the table has no rows" in error_of(SourceConfig(table=str(header)))
    assert "not a readable parquet file" in error_of(SourceConfig(table=str(garbage)))
    assert "the header, line 1, cannot be read: its quotes are not closed" in error_of(SourceConfig(str(open_quote)))
    assert "not a JSON object" in error_of(SourceConfig(table=str(list_json)))
    assert "not a JSON object" in error_of(SourceConfig(table=str(deep_json)))
    assert "source.format=" in error_of(SourceConfig(table=str(strange)))
    assert "no csv, jsonl, parquet, tsv files in this folder" in error_of(SourceConfig(table=str(tmp_path / "none")))
    assert "not a readable parquet file" in error_of(SourceConfig(table=str(header), format="parquet"))
    for file, format in ((garbage, "parquet"), (truncated, "csv")):
        with pytest.raises(InputError, match=f"{file.name}: not a readable {format} file"):
            count_rows(SourceConfig(table=str(file)))
