"""Archives of images: WebDataset's samples, img2dataset's status tables, braces, damaged files."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored_images import captions, encoded, read_all, write

from emage.config import SourceConfig
from emage.data.ingest.sources import kinds, table_record, tar_shards
from emage.utils import storage
from emage.utils.errors import InputError


def archive(members: dict[str, bytes | str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def sample(number: int, **more: str) -> dict[str, bytes | str]:
    return {f"{number:04d}.jpg": encoded(number % 256)} | {
        f"{number:04d}.{ending}": text for ending, text in more.items()
    }


def source(path: Path | str, **settings) -> SourceConfig:
    return SourceConfig(str(path), **settings)


def test_samples_of_webdataset(tmp_path):
    about = json.dumps({"caption": "of the object", "url": "http://a.test/1.jpg", "better": "a third", "score": 0.5})
    members = {
        **sample(1, txt="a bus", json=about, cls="7"),
        **sample(2, json='{"text": ["one", "two"]}'),
        **sample(3),
        "0004.txt": "no image",
        "./deep/5.jpg": encoded(5),
        "./deep/5.txt": "in a folder",
        "./deep/._6.jpg": b"of a Mac",
        "7.left.jpg": encoded(7),
        "7.right.JPG": encoded(8),
        "7.txt": "a pair",
    }
    write(tmp_path / "0.tar", archive(members))
    rows, dropped = read_all(source(tmp_path / "0.tar"))
    assert [(row["url"], row["caption"]) for row in rows] == [
        ("http://a.test/1.jpg", "a bus"),
        ("0.tar/0002.jpg", "one"),
        ("0.tar/0002.jpg", "two"),
        ("0.tar/./deep/5.jpg", "in a folder"),
        ("0.tar/7.left.jpg", "a pair"),
        ("0.tar/7.right.JPG", "a pair"),
    ]
    assert dropped == {"no_caption": 1}
    read, taken = tar_shards.open_images(kinds.resolve(source(tmp_path / "0.tar"))), []
    assert [read(row["address"], taken.append) for row in rows] == [encoded(number) for number in (1, 2, 2, 5, 7, 8)]
    assert taken == [len(encoded(number)) for number in (1, 2, 2, 5, 7, 8)]
    assert read_all(source(tmp_path, caption=("better",)))[0][0]["caption"] == "a third"
    rows, _ = read_all(source(tmp_path, where=("score>=0.4",)))
    assert [row["meta.score"] for row in rows] == ["0.5", *[None] * 5]


def test_several_archives_and_the_groups_that_stay_together(tmp_path):
    for number in range(3):
        samples = [sample(1_000 * number + n, txt=f"{number} {n}") for n in range(300)]
        write(tmp_path / f"{number:03d}.tar", archive({name: data for one in samples for name, data in one.items()}))
    rows, _ = read_all(source(tmp_path))
    assert len(rows) == 900 and len({row["address"] for row in rows}) == 900
    sizes = {}
    for row in rows:
        sizes[row["group"]] = sizes.get(row["group"], 0) + 1
    assert sorted(sizes.values()) == [44] * 3 + [256] * 3
    by_braces = read_all(source(tmp_path / "{000..001}.tar"))[0]
    assert by_braces == rows[:600]
    assert read_all(source(f"{tmp_path}/{{001,002}}.tar"))[0] == rows[300:]
    with pytest.raises(InputError, match=r"2 of 5 files are missing, .*003\.tar for example"):
        kinds.resolve(source(tmp_path / "{000..004}.tar"))


@pytest.mark.parametrize("name", ["all.tar/0.tar", "0.shard"])
def test_a_folder_that_is_called_like_an_archive_and_an_archive_that_is_not(tmp_path, name):
    write(tmp_path / name, archive(sample(1, txt="a bus")))
    shards = source(tmp_path / name.partition("/")[0], format="tar")
    read = tar_shards.open_images(shards)
    assert [read(row["address"], lambda _: None) for row in read_all(shards)[0]] == [encoded(1)]


def test_braces_in_addresses():
    assert storage.split_braces("a/{00..01}.tar") == ("a", ["00.tar", "01.tar"])
    assert storage.split_braces("/{x,y}/t.csv") == ("/", ["x/t.csv", "y/t.csv"])
    assert storage.split_braces("{1..2}.tar") == (".", ["1.tar", "2.tar"])
    uri = "s3://b/a/{1..2}.tar?endpoint_override=x:{1,2}"
    assert storage.split_braces(uri) == ("s3://b/a?endpoint_override=x:{1,2}", ["1.tar", "2.tar"])
    for plain in ("a/{x}/b.tar", "s3://b/a?x={1,2}", "a.tar"):
        assert storage.split_braces(plain) == (plain, [])


def test_a_job_of_img2dataset_with_its_status_table(tmp_path):
    members = {name: data for n in (0, 2) for name, data in sample(n, txt=f"caption {n}").items()}
    write(tmp_path / "00000.tar", archive(members))
    write(tmp_path / "00000_stats.json", "{}")
    statuses = ["success", "failed_to_download", "success", "failed_to_resize", "success", "failed_to_download"]
    table = {"key": [f"{n:04d}" for n in range(6)], "status": statuses, "url": ["u"] * 6}
    pq.write_table(pa.table(table), tmp_path / "00000.parquet")
    assert kinds.find_files(kinds.resolve(source(tmp_path))).passed_over == {"of type .json": 1}
    rows, dropped = read_all(source(tmp_path))
    assert [row["caption"] for row in rows] == ["caption 0", "caption 2"]
    assert dropped == {"failed_to_download": 2, "failed_to_resize": 1, "no_image": 1}  # 0004 is not in the archive


def test_archives_that_cannot_be_used(tmp_path):
    whole = archive(sample(1, txt="a bus") | sample(2, txt="a cat"))
    write(tmp_path / "cut" / "0.tar", whole[:2_600])
    write(tmp_path / "none" / "0.tar", archive(sample(1) | {"2.txt": "a cat"}))
    write(tmp_path / "text" / "0.tar", "no archive at all " * 100)
    write(tmp_path / "zipped.tar.gz", b"\x1f\x8b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match=r"0\.tar: no image with a caption .*\(they have \.jpg, \.txt\); the caption of a\.jpg"
    ):
        kinds.check(kinds.resolve(source(tmp_path / "none")))
    with pytest.raises(InputError, match=r"0\.tar: not a readable \.tar file"):
        kinds.check(kinds.resolve(source(tmp_path / "text")))
    with pytest.raises(InputError, match=r"0\.tar: not a readable \.tar file \(unexpected end of data\)"):
        read_all(source(tmp_path / "cut"))
    with pytest.raises(InputError, match=r"those that are not compressed are read"):
        kinds.check(kinds.resolve(source(tmp_path / "zipped.tar.gz")))
    with pytest.raises(InputError, match=r"no \.tar files in this folder"):
        kinds.find_files(source(tmp_path / "empty", format="tar"))


def test_an_edit_is_noticed(tmp_path):
    write(tmp_path / "0.tar", archive(sample(1, txt="a bus")))
    shards = kinds.resolve(source(tmp_path))
    files = kinds.find_files(shards)
    known = [table_record.facts(files, info) | kinds.survey(shards, info.path) for info in files.infos]
    assert not table_record.has_changed(known, shards)
    write(tmp_path / "0.tar", archive(sample(1, txt="a cat")))
    assert table_record.has_changed(known, shards)


def test_real_pairs(real_data):
    rows, dropped = read_all(source(real_data / "cc12m_32.tar"))
    assert len(rows) == 32 and dropped == {}
    assert all(row["url"].startswith("http") for row in rows)
    assert len(captions(source(real_data / "cc12m_32.tar"))) == 32
