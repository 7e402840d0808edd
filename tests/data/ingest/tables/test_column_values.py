"""Values of columns: what is a missing caption, and which types are refused, in the first file or a later one."""

import datetime
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from url_tables import error_of, read_and_count, read_pairs, write_csv, write_jsonl

from emage.config import SourceConfig
from emage.data.ingest import url_table
from emage.data.ingest.captions.caption_cleaning import MAX_CHARACTERS
from emage.utils.errors import InputError

MISSING = ["nan", "NaN", "NULL", "null", "None", "N/A", "n/a", "<NA>", "NaT", "\\N", "undefined", ""]


def write(path, columns: dict) -> SourceConfig:
    pq.write_table(pa.table(columns), path)
    return SourceConfig(str(path))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_every_spelling_of_missing_is_an_empty_caption(tmp_path, name):
    captions = [*MISSING, "a nan in a caption"]
    path = tmp_path / name
    if name == "t.jsonl":
        write_jsonl(path, [{"url": "u", "caption": caption} for caption in captions])
    elif name == "t.parquet":
        write(path, {"url": ["u"] * len(captions), "caption": captions})
    else:
        write_csv(path, [("url", "caption"), *(("u", c) for c in captions)], "," if name == "t.csv" else "\t")
    assert [caption for _, caption in read_pairs(SourceConfig(str(path)))] == [""] * len(MISSING) + captions[-1:]


def test_a_missing_part_of_a_caption_is_left_out(tmp_path):
    columns = {"url": ["u", "nan"], "title": ["nan", "A bus"], "text": ["a dog", None]}
    source = SourceConfig(write(tmp_path / "t.parquet", columns).table, caption=("title", "text"))
    assert [(row["url"], row["caption"]) for batch in url_table.read(source) for row in batch.to_pylist()] == [
        ("u", "a dog"),
        (None, "A bus"),
    ]


@pytest.mark.parametrize("type", [pa.float16(), pa.float32(), pa.float64()])
def test_numbers_that_are_none_are_missing(tmp_path, type):
    values = np.array([np.nan, np.inf, 1.5, -np.inf], type.to_pandas_dtype())
    source = write(tmp_path / "t.parquet", {"url": ["u"] * 4, "caption": pa.array(values, type)})
    assert [caption for _, caption in read_pairs(source)] == ["", "", "1.5", ""]


def test_values_of_jsonl_that_are_no_text(tmp_path):
    values = ("NaN", "Infinity", "1e999", "true", "null", "12")
    lines = [f'{{"url": "u", "caption": {value}}}' for value in values]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert [caption for _, caption in read_pairs(SourceConfig(str(tmp_path / "t.jsonl")))] == [""] * 5 + ["12"]


def test_columns_of_jsonl_are_not_those_of_its_first_line(tmp_path):
    rows = [{"url": "u1"}] * 20_000 + [{"caption": "a fox"}, {"url": "u2", "caption": "a bear", "more": 1}]
    found, bad, counted = read_and_count(SourceConfig(str(write_jsonl(tmp_path / "t.jsonl", rows))))
    assert found == [("u1", "")] * 20_000 + [(None, "a fox"), ("u2", "a bear")]
    assert (bad, counted) == (0, 20_002)
    folder = tmp_path / "folder"
    folder.mkdir()
    write_jsonl(folder / "1.jsonl", rows[:2])
    write_jsonl(folder / "2.jsonl", rows[-1:])
    url_table.check(SourceConfig(str(folder)))
    assert "no column 'txt' (source.caption)" in error_of(SourceConfig(str(folder), caption=("txt",)))


BAD = {
    "a list": ([["a cat"], ["a dog"]], "list<"),
    "an object": ({"en": "a cat"}, "struct<"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("column", ["caption", "url", "hash"])
@pytest.mark.parametrize("place", ["first", "later"])
def test_lists_and_objects_are_refused_with_their_column(tmp_path, kind, column, place):
    key = {"hash": "source.md5"}.get(column, f"source.{column}")
    good, bad = {"url": "u", "caption": "c", "hash": "0" * 32}, BAD[kind][0]
    names = ("0", "1") if place == "first" else ("1", "0")
    for format in ("jsonl", "parquet"):
        folder = tmp_path / format
        folder.mkdir()
        for name, row in zip(names, (good | {column: bad}, good), strict=True):
            if format == "jsonl":
                write_jsonl(folder / f"{name}.jsonl", [good | {"url": "u0"}, row])
            else:
                pq.write_table(pa.Table.from_pylist([row]), folder / f"{name}.parquet")
        source = SourceConfig(str(folder), md5="hash")
        with pytest.raises(InputError) as error:
            list(url_table.read(source))
        text = str(error.value)
        assert f"column {column!r} holds {kind if format == 'jsonl' else BAD[kind][1]}" in text
        assert f"not text ({key})" in text and f"{names[0]}.{format}" in text and "\n" not in text
        assert format == "parquet" or ": line 2: " in text


@pytest.mark.parametrize("values", [[True], [datetime.datetime(2020, 1, 1)], [datetime.date(2020, 1, 1)]])
def test_other_types_of_parquet_are_refused(tmp_path, values):
    assert "(source.caption)" in error_of(write(tmp_path / "t.parquet", {"url": ["u"], "caption": values}))
    assert "(source.url)" in error_of(write(tmp_path / "t.parquet", {"url": [1], "caption": ["c"]}))


def test_a_condition_on_a_column_of_a_later_file(tmp_path):
    write(tmp_path / "0.parquet", {"url": ["u"], "caption": ["c"], "score": [0.5]})
    write(tmp_path / "1.parquet", {"url": ["u"], "caption": ["c"], "score": [[0.5]]})
    source = SourceConfig(str(tmp_path), where=("score>=0.2",))
    url_table.check(source)
    with pytest.raises(
        InputError, match=r"1\.parquet: 'score' holds list<.*> *, which cannot be compared \(source\.wh"
    ):
        list(url_table.read(source))


TEXT_TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]


@pytest.mark.parametrize("type", [*TEXT_TYPES, pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_every_type_of_text(tmp_path, type):
    captions = pa.array(["a fox", None, "nan", "ö" * 5_000]).cast(type)
    source = write(tmp_path / "t.parquet", {"url": ["u"] * 4, "caption": captions})
    assert [caption for _, caption in read_pairs(source)] == ["a fox", "", "", "ö" * MAX_CHARACTERS]


def test_texts_of_parquet_that_are_not_utf8(tmp_path):
    """Nobody checks the bytes of a column of texts when it is written."""
    data = pa.array([b"caf\xe9", "öl".encode(), None], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, data.buffers())
    source = write(tmp_path / "t.parquet", {"url": texts, "caption": texts, "note": texts})
    source = SourceConfig(source.table, where=("note==öl",))
    (batch,), (condition,) = url_table.read(source), url_table.parse_conditions(source)
    assert batch["url"].to_pylist() == ["caf\ufffd", "öl", None]
    assert batch["caption"].to_pylist() == ["caf\ufffd", "öl", ""]
    assert condition.holds(batch["meta.note"]).to_pylist() == [False, True, False]


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_a_url_too_long_is_a_bad_row(tmp_path, name):
    rows = [{"url": "http://a.test/" + "x" * length, "caption": "c"} for length in (10, 8_178, 8_179, 100_000)]
    if name == "t.jsonl":
        write_jsonl(tmp_path / name, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    found, bad, counted = read_and_count(SourceConfig(str(tmp_path / name)))
    assert [url for url, _ in found] == [row["url"] for row in rows[:2]]
    assert (bad, counted) == (2, 4)


def test_escapes_of_a_long_caption(tmp_path):
    escaped = "%C3%B6" * 5_000
    (tmp_path / "t.jsonl").write_text(json.dumps({"url": "u", "caption": escaped}))
    source = SourceConfig(str(tmp_path / "t.jsonl"), unquote=True)
    assert read_pairs(source) == [("u", "ö" * MAX_CHARACTERS)]
