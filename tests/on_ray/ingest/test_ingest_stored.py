"""The whole ingest of images that are files, not URLs: every one is taken or counted, with the checks of a download."""

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from shards_of_urls import arrived
from stored_images import encoded, write

from emage import config
from emage.config import IngestConfig
from emage.data.images import decode_image
from emage.on_ray.ingest import driver as ingest
from emage.on_ray.ingest.report import sheets
from emage.utils import image_grid, manifest
from emage.utils.errors import InputError

pytestmark = pytest.mark.ray

GOOD = {  # name -> its format, and options of Pillow
    "a.jpg": ("JPEG", {}),
    "deep/b.png": ("PNG", {}),
    "c.webp": ("WEBP", {}),
    "d.gif": ("GIF", {"save_all": True, "append_images": [Image.new("RGB", (40, 32))]}),
    "e.avif": ("AVIF", {}),
    "f.heic": ("HEIF", {}),
    "g.tiff": ("TIFF", {}),
    "turned.jpg": ("JPEG", {"exif": bytes.fromhex("4578696600004d4d002a00000008000101120003000000010006000000000000")}),
}
BAD = {  # name -> content, drop reason
    "text.jpg": (b"not an image at all", "not_an_image"),
    "page.png": (b"<html>gone</html>", "web_page"),
    "cut.png": (encoded(9, size=(400, 400), compress_level=0)[:2_000], "truncated"),
    "small.png": (encoded(9, size=(15, 40)), "too_small"),
    "bomb.png": (encoded(9, size=(3_000, 3_000)), "too_many_pixels"),
    "big.bmp": (encoded(9, "BMP", size=(400, 400)), "too_big"),
    "none.jpg": (b"", "empty"),
    "old.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "format_jpeg2000"),
}


def settings_of(folder: Path, output: Path, **download) -> IngestConfig:
    limits = {"max_image_pixels": 8_000_000, "max_bytes": 400_000, "shard_rows": 8, "threads": 4}
    return config.preset(
        IngestConfig,
        "tiny",
        output=str(output),
        source={"table": str(folder), "dataset": "ours"},
        download={**limits, **download},
        mlflow={"enabled": False},
    )


def write_folder(folder: Path) -> None:
    for number, (name, (format, options)) in enumerate(GOOD.items()):
        write(folder / name, encoded(10 * number, format, **options))
        write((folder / name).with_suffix(".txt"), f"a photograph of thing {number}")
    for name, (content, _) in BAD.items():
        write(folder / name, content)
        write((folder / name).with_suffix(".txt"), f"a photograph of {name}")
    write(folder / "silent.png", encoded(200))
    write(folder / "rejected.png", encoded(201))
    write(folder / "rejected.txt", "DSC_0012.JPG")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "images"
    write_folder(folder)
    return folder


@pytest.fixture(scope="module")
def output(ray_cluster, folder) -> Path:
    ingest.ingest(settings_of(folder, folder.parent / "out"))
    return folder.parent / "out"


def tokens(output: Path) -> dict[str, str]:
    return {file.name: manifest.sha256(file) for file in sorted((output / "tokens").glob("*.parquet"))}


def test_every_image_is_taken_or_counted(output):
    report = json.loads((output / "ingest_report.json").read_text())
    assert report["rows_in"] == len(GOOD) + len(BAD) + 2
    assert report["written"] == len(GOOD)
    assert report["filtered"] == {"no_caption": 1}
    assert report["failed"] == {reason: 1 for _, reason in BAD.values()}
    assert report["rejected"] == {"file_name": 1}
    assert report["miscounted"] == [] and report["passed_over"] == []


def test_formats_sizes_and_checksums(output, folder):
    rows = {row["url"]: row for row in pq.read_table(output / "tokens").to_pylist()}
    assert rows.keys() == GOOD.keys()
    for name, row in rows.items():
        assert (row["width"], row["height"]) == ((32, 40) if name == "turned.jpg" else (40, 32))
        assert row["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert row["caption"].startswith("a photograph of thing ")
    for row in arrived(output / "shards"):
        if row["url"] in GOOD:
            colour = decode_image.decode_pixels(row["image"]).mean(axis=(0, 1))
            number = 10 * list(GOOD).index(row["url"])
            assert np.abs(colour - [number, 255 - number, number // 2]).max() < 12, row["url"]


def test_the_same_command_changes_nothing_and_a_killed_one_goes_on(output, folder, tmp_path):
    before = tokens(output)
    ingest.ingest(settings_of(folder, output))
    assert tokens(output) == before
    shutil.copytree(output, tmp_path / "out")
    for name in ("tokens", "tokenized", "shards/00001", "shards/manifest.json"):
        path = tmp_path / "out" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    ingest.ingest(settings_of(folder, tmp_path / "out"))
    assert tokens(tmp_path / "out") == before


def test_a_folder_that_has_changed_is_refused(ray_cluster, tmp_path):
    write(tmp_path / "in/a.png", encoded(1))
    write(tmp_path / "in/a.txt", "a red bus")
    settings = settings_of(tmp_path / "in", tmp_path / "out")
    ingest.ingest(replace(settings, stage="select"))
    write(tmp_path / "in/b.png", encoded(2))
    with pytest.raises(InputError, match="has changed since"):
        ingest.ingest(settings)


def test_a_table_never_opens_a_file(ray_cluster, tmp_path):
    """A URL that looks like a stored image's address is still a URL."""
    write(tmp_path / "in/a.png", encoded(1))
    write(tmp_path / "in/a.txt", "a red bus")
    write(
        tmp_path / "urls.csv",
        f"url,caption\na.png,a blue cat\n{tmp_path}/in/a.png,a cat\nfile://{tmp_path}/in/a.png,x y\n",
    )
    more = {"web": {"table": str(tmp_path / "urls.csv")}}
    report = ingest.ingest(replace(settings_of(tmp_path / "in", tmp_path / "out"), more=more))
    assert report["written"] == 1 and report["failed"] == {"bad_scheme": 3}


def test_archives_and_a_table_together(ray_cluster, tmp_path):
    """Images of tar archives, two captions each; every address is read as the bytes that the archive has."""
    images = {f"{number:03d}": encoded(10 * number, "JPEG") for number in range(20)}
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:05d}.tar", "w") as tar:
            for name, data in list(images.items())[shard::2]:
                about = json.dumps({"caption": [f"a photograph of {name}", f"again the one of {name}"]}).encode()
                for ending, content in (("jpg", data), ("json", about)):
                    info = tarfile.TarInfo(f"{name}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    report = ingest.ingest(settings_of(tmp_path / "{00000..00001}.tar", tmp_path / "out"))
    assert report["written"] == report["rows_in"] == 40 and report["same_content"] == 20
    rows = pq.read_table(tmp_path / "out" / "tokens").to_pylist()
    assert len({(row["url"], row["caption"]) for row in rows}) == 40
    for row in rows:
        assert row["sha256"] == hashlib.sha256(images[Path(row["url"]).stem]).hexdigest()
        assert Path(row["url"]).stem in row["caption"]


def test_parquet_files_with_images(ray_cluster, tmp_path):
    cells = [encoded(10 * number) for number in range(20)] + [None, b"", b"no image"]
    table = pa.table(
        {"image": pa.array(cells, pa.binary()), "caption": [f"a photograph of thing {n}" for n in range(len(cells))]}
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=6)
    report = ingest.ingest(settings_of(tmp_path / "t.parquet", tmp_path / "out"))
    assert report["rows_in"] == 23 and report["written"] == 20
    assert report["failed"] == {"no_image": 1, "empty": 1, "not_an_image": 1}
    for row in pq.read_table(tmp_path / "out" / "tokens").to_pylist():
        number = int(row["caption"].split()[-1])
        assert row["url"] == f"t.parquet#{number}"
        assert row["sha256"] == hashlib.sha256(encoded(10 * number)).hexdigest()


def test_the_sheets_show_what_was_taken_and_what_was_dropped_and_why(output, monkeypatch):
    shown = []
    monkeypatch.setattr(image_grid, "make_grid", lambda images, texts, columns: shown.append((images, texts)))
    report = json.loads((output / "ingest_report.json").read_text())
    sheets.draw_dropped(report, output)
    images, texts = shown.pop()
    reasons = [text.partition(":")[0].partition(".")[0] for text in texts]
    assert sorted(reasons) == sorted(["no_caption", "file_name", *(reason for _, reason in BAD.values())])
    by_reason = dict(zip(reasons, zip(images, texts, strict=True), strict=True))
    assert by_reason["too_small"][1] == "too_small: 1 row. small.png a photograph of small.png"
    assert by_reason["no_caption"][1].startswith("no_caption: 1 row. An image without a caption")
    image, text = by_reason["file_name"]
    assert text == "file_name: 1 row. DSC_0012.JPG"
    assert np.abs(np.asarray(image).mean(axis=(0, 1)) - [201, 54, 100]).max() < 12  # the rejected image itself
    sheets.draw_taken(output)
    images, texts = shown.pop()
    assert sum(text.startswith("a photograph of thing") for text in texts) >= 1
    for name in ("pictures.png", "dropped.png"):
        with Image.open(output / name) as image:
            assert image.width > 128
