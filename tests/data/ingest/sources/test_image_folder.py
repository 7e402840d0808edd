"""A folder of images: its files, its captions from every kind of file, its bytes."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored_images import captions, encoded, read_all, write

from emage.config import SourceConfig
from emage.data.ingest.download.fetch_error import FetchError
from emage.data.ingest.sources import image_folder, kinds, table_record
from emage.utils.errors import InputError


def source(folder: Path, **settings) -> SourceConfig:
    return SourceConfig(str(folder), **settings)


def test_texts_and_objects_beside_the_images(tmp_path):
    for number, name in enumerate(("a.jpg", "deep/b.PNG", "deep/c.webp", "d.e.gif", "f.tif", "_DSC1.JPG", "none.bmp")):
        write(tmp_path / name, encoded(number))
    write(tmp_path / "a.txt", "\ufeffa red bus\n")
    write(tmp_path / "deep" / "b.json", json.dumps({"caption": "a blue cat", "width": 3}))
    write(tmp_path / "deep" / "c.json", json.dumps({"text": ["one", None, " ", 2]}))
    write(tmp_path / "d.e.caption", "a moving dog".encode("utf-16"))
    write(tmp_path / "f.txt", "the text")
    write(tmp_path / "f.json", json.dumps({"caption": "the object"}))
    write(tmp_path / "_DSC1.json", '{"caption": "öl"}')
    rows, dropped = read_all(source(tmp_path))
    assert {row["url"]: row["caption"] for row in rows if row["url"] != "deep/c.webp"} == {
        "a.jpg": "a red bus",
        "deep/b.PNG": "a blue cat",
        "d.e.gif": "a moving dog",
        "f.tif": "the text",
        "_DSC1.JPG": "öl",
    }
    assert [row["caption"] for row in rows if row["url"] == "deep/c.webp"] == ["one", " ", "2"]
    assert dropped == {"no_caption": 1}


def test_what_is_passed_over_is_said(tmp_path):
    for name in ("a.jpg", ".hidden/b.jpg", "__MACOSX/a.jpg"):
        write(tmp_path / name, encoded(1))
    for name in ("a.txt", "README.txt", "notes.docx", "LICENSE", "deep/stats.json"):
        write(tmp_path / name, "text")
    os.symlink("gone", tmp_path / "link.jpg")
    files = kinds.find_files(kinds.resolve(source(tmp_path)))
    assert files.passed_over == {
        "hidden: the name, or a folder's, begins with .": 2,
        "of type .txt without an image of that name": 1,
        "of type .json without an image of that name": 1,
        "of type .docx": 1,
        "without a type in the name": 1,
        "links to nothing": 1,
    }
    assert captions(source(tmp_path)) == {"a.jpg": ["text"]}


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_tables_of_hugging_face(tmp_path, format):
    """A table speaks of the files below its own folder; two rows on one image are two captions."""
    for number, name in enumerate(("train/a.png", "train/deep/b.png", "train/c.png", "test/a.png")):
        write(tmp_path / name, encoded(number))
    write(tmp_path / "train/a.txt", "not this one")
    rows = [("a.png", "a, b", 0.9), ("deep/b.png", 'the "second"', 0.1), ("a.png", "again", 0.9), ("x.png", "gone", 1)]
    table = [dict(zip(("file_name", "text", "score"), row, strict=True)) for row in rows]
    path = tmp_path / "train" / f"metadata.{format}"
    if format == "csv":
        write(
            path,
            'file_name,text,score\na.png,"a, b",0.9\ndeep/b.png,"the ""second""",0.1\na.png,again,0.9\nx.png,gone,1\n',
        )
    elif format == "jsonl":
        write(path, "".join(json.dumps(row) + "\n" for row in table))
    else:
        pq.write_table(pa.Table.from_pylist(table), path)
    rows, dropped = read_all(source(tmp_path))
    assert sorted((row["url"], row["caption"]) for row in rows) == [
        ("train/a.png", "a, b"),
        ("train/a.png", "again"),
        ("train/deep/b.png", 'the "second"'),
    ]
    assert dropped == {"no_image": 1, "no_caption": 2}
    rows, _ = read_all(source(tmp_path, where=("score>=0.5",)))
    assert {row["url"]: float(row["meta.score"]) for row in rows} == {"train/a.png": 0.9, "train/deep/b.png": 0.1}


def test_columns_of_other_names(tmp_path):
    write(tmp_path / "a.png", encoded(1))
    write(tmp_path / "metadata.csv", "image,title,tags\na.png,a bus,red\n")
    assert captions(source(tmp_path, url="image", caption=("title", "tags"))) == {"a.png": ["a bus red"]}
    for settings, line in (
        ({}, "no column 'file_name'"),
        ({"url": "image", "caption": ("titel",)}, "no column 'titel'"),
    ):
        with pytest.raises(InputError, match=line):
            read_all(source(tmp_path, **settings))


def test_lists_of_captions_and_one_of_them_at_random(tmp_path):
    names = [f"{number:02d}.png" for number in range(40)]
    for number, name in enumerate(names):
        write(tmp_path / name, encoded(number))
    said = [[f"{name} {k}" for k in range(4)] for name in names]
    pq.write_table(
        pa.table({"file_name": [*names, "gone.png"], "captions": [*said, ["a", "b"]]}), tmp_path / "metadata.parquet"
    )
    rows, dropped = read_all(source(tmp_path))
    assert sorted(row["caption"] for row in rows) == sorted(text for texts in said for text in texts)
    assert dropped == {"no_image": 2}
    rows, dropped = read_all(source(tmp_path, several_captions="random"))
    assert [row["url"] for row in rows] == names and dropped == {"no_image": 1}
    assert all(row["caption"].startswith(row["url"]) for row in rows)
    assert len({row["caption"][-1] for row in rows}) == 4  # not always the first
    assert rows == read_all(source(tmp_path, several_captions="random"))[0]


def test_captions_of_coco(tmp_path):
    write(tmp_path / "val2017/1.jpg", encoded(1))
    write(tmp_path / "val2017/2.jpg", encoded(2))
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "coco_url": "http://x"} for n in (1, 2, 3)],
        "annotations": [{"image_id": n, "id": i, "caption": f"{n}, {i}"} for i, n in enumerate((1, 3, 1))],
    }
    write(tmp_path / "annotations/captions_val2017.json", json.dumps(content))
    rows, dropped = read_all(source(tmp_path))
    assert [(row["url"], row["caption"]) for row in rows] == [("val2017/1.jpg", "1, 0"), ("val2017/1.jpg", "1, 2")]
    assert dropped == {"no_caption": 1, "no_image": 1}
    write(tmp_path / "annotations/captions_val2017.json", '{"images": []}')
    with pytest.raises(InputError, match=r"captions_val2017\.json: not COCO's captions"):
        read_all(source(tmp_path))


def test_kinds_are_found_or_said(tmp_path):
    write(tmp_path / "urls/t.csv", "url,caption\nu,c\n")
    write(tmp_path / "images/a.jpg", encoded(1))
    write(tmp_path / "empty/a.txt", "text")
    assert kinds.resolve(source(tmp_path / "urls")).format == "auto"
    assert kinds.resolve(source(tmp_path / "images")).format == "folder"
    with pytest.raises(InputError, match=r"1 files of images and 1 files of tables: .* set source\.format"):
        kinds.resolve(source(tmp_path))
    assert kinds.resolve(source(tmp_path, format="folder")).format == "folder"
    with pytest.raises(InputError, match=r"no csv, jsonl, parquet, tsv files in this folder .*, nor images"):
        kinds.check(kinds.resolve(source(tmp_path / "empty")))
    with pytest.raises(InputError, match="no images in this folder"):
        kinds.check(kinds.resolve(source(tmp_path / "urls", format="folder")))
    with pytest.raises(InputError, match=r"1 images without captions: put the caption of a\.jpg into a\.txt"):
        kinds.check(kinds.resolve(source(tmp_path / "images")))
    with pytest.raises(InputError, match="no folder"):
        kinds.check(source(tmp_path / "images/a.jpg", format="folder"))


def test_bytes_of_an_image(tmp_path):
    write(tmp_path / "a/b.jpg", encoded(1))
    write(tmp_path / "empty.jpg", b"")
    read, taken = image_folder.open_images(source(tmp_path)), []
    assert read("a/b.jpg", taken.append) == encoded(1) and taken == [len(encoded(1))]
    for name, reason in (("none.jpg", "no_image"), ("empty.jpg", "empty"), ("a", "unreadable_file")):
        with pytest.raises(FetchError, match=reason):
            read(name, taken.append)


def test_an_edit_is_noticed_a_copy_is_not(tmp_path):
    write(tmp_path / "a.jpg", encoded(1))
    write(tmp_path / "a.txt", "a red bus")
    folder = kinds.resolve(source(tmp_path))
    files = kinds.find_files(folder)
    known = [table_record.facts(files, info) | kinds.survey(folder, info.path) for info in files.infos]
    assert not table_record.has_changed(known, folder)
    os.utime(tmp_path / "a.jpg")
    assert not table_record.has_changed(known, folder)
    write(tmp_path / "a.txt", "a RED bus")
    assert table_record.has_changed(known, folder)
    write(tmp_path / "a.txt", "a red bus")
    write(tmp_path / "b.jpg", b"")
    assert table_record.has_changed(known, folder)
