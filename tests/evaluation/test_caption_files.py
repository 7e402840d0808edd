"""What people take for a caption file: line ends, quotes, numbers, encodings, and every json of COCO."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emage.evaluation.caption_files import read_rows
from emage.utils.errors import InputError


def captions(path: Path) -> list[str | None]:
    return [row.caption for row in read_rows(path) if row.caption]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv"])
def test_a_line_ends_where_editors_show_it(tmp_path: Path, name: str) -> None:
    odd = ["a cat\u2028on a mat", "two\x0bdogs", "a\x0cbird", "grey\x85fox", "no\x1eend"]
    lines = odd if name == "a.txt" else ["caption", *odd]
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / name).write_bytes(("\ufeff" + end.join(lines) + end).encode())
        assert captions(tmp_path / name) == odd, repr(end)


def test_the_ids_of_a_text_are_those_of_its_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\nthree\u2028and\n")
    assert [(row.id, row.caption) for row in read_rows(tmp_path / "a.txt") if row.caption] == [
        (0, "one"),
        (2, "three\u2028and"),
    ]


def test_a_quote_in_a_tsv_is_a_letter(tmp_path: Path) -> None:
    rows = ['"a 6 inch pie\t1', 'a "big" pie\t2', '"a ""round"" pie"\t3', 'half "\t4']
    (tmp_path / "a.tsv").write_text("caption\tid\n" + "\n".join(rows))
    found = [(row.caption, row.id) for row in read_rows(tmp_path / "a.tsv")]
    assert found == [('"a 6 inch pie', 1), ('a "big" pie', 2), ('a "round" pie', 3), ('half "', 4)]


def test_a_quoted_value_of_a_csv_may_have_commas_and_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,caption\n4,"a cat, ""Tom"",\nasleep"\n7,a dog\n')
    assert [(row.id, row.caption) for row in read_rows(tmp_path / "a.csv")] == [
        (4, 'a cat, "Tom",\nasleep'),
        (7, "a dog"),
    ]


def test_captions_that_look_like_numbers_or_dates_are_text(tmp_path: Path) -> None:
    words = ["7", "08", "1e3", "3.10", "2026-12-01", "true", "null"]
    (tmp_path / "a.csv").write_text("\n".join(["caption", *words]))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"caption": word}) + "\n" for word in words))
    pq.write_table(pa.table({"caption": words}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert captions(tmp_path / name) == words, name
    (tmp_path / "b.jsonl").write_text('{"caption": 7}\n{"caption": 3.10}\n{"caption": NaN}\n{"caption": null}\n{}\n')
    assert captions(tmp_path / "b.jsonl") == ["7", "3.10"]
    pq.write_table(pa.table({"caption": [7, 8]}), tmp_path / "b.parquet")
    assert captions(tmp_path / "b.parquet") == ["7", "8"]


def test_each_line_of_a_jsonl_is_read_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n\n{"caption": "a\\u2028b", "id": 3}\n{"caption": "c", "y": [1]}\n')
    assert [(row.id, row.caption) for row in read_rows(tmp_path / "a.jsonl")] == [(0, None), (1, "a\u2028b"), (2, "c")]


@pytest.mark.parametrize(
    "content",
    [
        {"info": {}, "annotations": [{"id": 5, "image_id": 1, "caption": "a red hat"}, {"id": 6, "caption": "a cup"}]},
        [{"image_id": 3, "caption": "a red hat"}, {"image_id": 4, "caption": "a cup"}],
        ["a red hat", "a cup"],
    ],
)
def test_json_with_captions(tmp_path: Path, content: Any) -> None:
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(content))
    assert captions(tmp_path / "a.json") == ["a red hat", "a cup"]


BOX = {"id": 1, "image_id": 1, "category_id": 18, "bbox": [1, 2, 3, 4]}
WANTED = "a caption json is COCO's captions_*.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": [BOX]}, "have no `caption`, but id, image_id, category_id, bbox; " + WANTED),
        ({"annotations": {"1": {"caption": "a"}}}, "annotations is an object; " + WANTED),
        ({"annotations": None, "images": []}, "no annotations, but annotations, images; " + WANTED),
        ({"images": [{"sentences": [{"raw": "a"}]}]}, "no annotations, but images; " + WANTED),
        ({"annotations": ["a", {"caption": "b"}]}, "a text among the annotations; " + WANTED),
        ({"annotations": [1.5, {"caption": "b"}]}, "a number among the annotations; " + WANTED),
        ({"annotations": [[1]]}, "a list among the annotations; " + WANTED),
        ({"annotations": [{"caption": ["a"]}]}, "annotation 1: `caption` has values that are not text, but a list"),
        ({"annotations": [{"caption": True}]}, "`caption` has values that are not text, but true or false"),
        ("a cat", "it is a text"),
        (7, "it is a number"),
    ],
)
def test_other_json_is_one_line_that_says_which_is_wanted(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        read_rows(tmp_path / "a.json")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", "caption\nfür\n".encode("latin-1"), "line 2 is not UTF-8 (byte 0xfc): save the file as UTF-8"),
        ("a.txt", b"one\ntwo\n\xff", "line 3 is not UTF-8"),
        ("a.txt", "one\n".encode("utf-16"), "it is UTF-16, not text in UTF-8"),
        ("a.jsonl", b"\x1f\x8b\x08", "it is gzip"),
        ("a.csv", b'caption\nok\n"open\nand, on\n', "line 3: a quote is not closed"),
        ("a.csv", b'caption\nok\n"a" b\n', "line 3: a quote is not closed, or within a value"),
        ("a.csv", b"caption,id\na,1,2\n", "line 2 has 3 fields, the first line 2"),
        ("a.csv", b"captoin,id\na,1\n", "no column `caption`; did you mean captoin? (it has captoin, id)"),
        ("a.tsv", b"caption\tid\na\n", "line 2 has 1 fields, the first line 2"),
        ("a.jsonl", b'{"caption": "a"}\n["b"]\n', "line 2 is not an object"),
        ("a.jsonl", b'{"caption": "a"}\n{"caption": }\n', "line 2: unreadable caption file"),
        ("a.jsonl", b"[" * 100_000, "line 1: unreadable caption file (nested too deeply)"),
        ("a.json", b'{"caption": "a"}\n{"caption": "b"}\n', "one value per line is jsonl: rename it"),
        ("a.parquet", b"PAR1", "unreadable caption file"),
        ("a.docx", b"PK\x03\x04", "captions must be parquet, csv, tsv, jsonl, COCO json or txt"),
    ],
)
def test_an_unreadable_file_is_one_line_with_the_place(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        read_rows(tmp_path / name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_ending_of_the_name_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "A.TXT").write_text("a cat\n")
    assert captions(tmp_path / "A.TXT") == ["a cat"]
