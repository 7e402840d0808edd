"""Caption files of every format: selection, ids and seeds."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emage.evaluation import caption_list
from emage.evaluation.caption_list import ListedCaption, read
from emage.utils.errors import InputError


def test_captions_come_from_every_format(tmp_path: Path):
    (tmp_path / "a.txt").write_text("a cat\n\na dog\n")
    (tmp_path / "a.jsonl").write_text('{"caption": "a cat"}\n{"caption": "a dog"}\n')
    (tmp_path / "a.tsv").write_text("caption\tx\na cat\t1\na dog\t2\n")
    (tmp_path / "a.csv").write_text("x,caption\n1,a cat\n2,a dog\n")
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [{"caption": "a cat"}, {"caption": "a dog"}]}))
    pq.write_table(pa.table({"caption": ["a cat", None, "a dog"]}), tmp_path / "a.parquet")
    for name in ("a.txt", "a.jsonl", "a.tsv", "a.csv", "a.json", "a.parquet"):
        assert [listed.caption for listed in read(str(tmp_path / name), 10, 0)] == ["a cat", "a dog"]


def test_the_seed_selects_the_captions_and_each_has_a_seed_of_its_own(tmp_path: Path):
    (tmp_path / "a.txt").write_text("".join(f"caption {i}\n" for i in range(100)))
    selected = read(str(tmp_path / "a.txt"), 10, 1)
    assert selected == read(str(tmp_path / "a.txt"), 10, 1) != read(str(tmp_path / "a.txt"), 10, 2)
    assert [listed.id for listed in selected] == sorted(listed.id for listed in selected)
    assert len({listed.seed(0) for listed in selected}) == 10 and selected[0].seed(0) != selected[0].seed(1)


def test_a_written_list_is_read_unchanged(tmp_path: Path):
    (tmp_path / "a.txt").write_text("".join(f"caption {i}\n" for i in range(100)))
    selected = read(str(tmp_path / "a.txt"), 10, 1)
    caption_list.write(tmp_path / "list.parquet", selected)
    again = read(str(tmp_path / "list.parquet"), 30_000, 7)
    assert again == selected and caption_list.fingerprint(again) == caption_list.fingerprint(selected)
    other = [ListedCaption(selected[0].id, "another"), *selected[1:]]
    assert caption_list.fingerprint(other) != caption_list.fingerprint(selected)


def test_ids_of_coco_do_not_depend_on_the_position_in_the_file(tmp_path: Path):
    rows = [{"id": 770337, "image_id": 1, "caption": " A man. \n"}, {"id": 38, "image_id": 1, "caption": "A dog."}]
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": rows}))
    assert read(str(tmp_path / "captions.json"), 10, 0) == [
        ListedCaption(38, "A dog.", "000000000001"),
        ListedCaption(770337, "A man.", "000000000001"),
    ]


def test_each_image_of_coco_gives_one_caption_before_any_gives_two(tmp_path: Path):
    rows = [
        {"id": 10 * image + i, "image_id": image, "caption": f"{image} {i}"} for image in range(20) for i in range(5)
    ]
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": rows}))
    few, many = (read(str(tmp_path / "captions.json"), limit, 0) for limit in (15, 25))
    assert len({listed.id // 10 for listed in few}) == 15 and len({listed.id // 10 for listed in many}) == 20
    assert len({listed.id % 10 for listed in few}) > 1  # not always the first of its five
    assert len(many) == 25 and len(read(str(tmp_path / "captions.json"), 1_000, 0)) == 100


def test_real_coco_captions(real_data: Path):
    selected = read(str(real_data / "coco_captions_val2017.json"), 1_000, 0)
    assert len({listed.id for listed in selected}) == 1_000 and all(
        listed.caption == listed.caption.strip() for listed in selected
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.txt", None, "no such caption file"),
        ("a.txt", "\n\n", "no captions in it"),
        ("a.doc", "x", "captions must be"),
        ("a.csv", "text\nhello\n", "no column `caption` (it has text)"),
        ("b.csv", "id,caption\n1,hello\n1,there\n", "each must be unique"),
        ("c.csv", "id,caption\n-1,hello\n2,there\n", "0 or more"),
        ("d.csv", f"id,caption\n{2**63},hello\n", "0 or more"),
        ("b.jsonl", '{"caption": "a \\ud800 b"}\n', "half of a surrogate pair"),
        ("b.txt", "  \n\t\n", "no captions in it"),
        ("a.json", "{", "unreadable caption file"),
        ("a.parquet", "x", "unreadable caption file"),
    ],
)
def test_bad_caption_files_are_one_line(tmp_path: Path, name: str, text: str | None, message: str):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        read(str(tmp_path / name), 10, 0)
    assert message in str(error.value) and "\n" not in str(error.value)
