"""Images are found in folders and archives, bad ones are counted, good ones are cropped as ingest does."""

import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from web import encode

from emage.data.images import decode_image, image_files
from emage.utils.errors import InputError


def png(red: int, width: int = 96, height: int = 80) -> bytes:
    image = Image.new("RGB", (width, height), (red, 200, 30))
    image.paste((0, 0, 255), (0, 0, width // 3, height // 2))
    return encode(image, "PNG")


@pytest.fixture
def folder(tmp_path):
    """Return a folder with two images, one of them in a subfolder, an archive of two more, and other files."""
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / "b" / "deep" / "2.JPG").write_bytes(png(20))
    (tmp_path / "a.png").write_bytes(png(10))
    (tmp_path / "notes.txt").write_text("no png")
    for name, red in (("4.png", 40), ("3.png", 30)):
        (tmp_path / name).write_bytes(png(red))
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        for name in ("4.png", "3.png"):
            archive.add(tmp_path / name, f"in/{name}")
            (tmp_path / name).unlink()
        archive.add(tmp_path / "notes.txt", "in/notes.txt")
    return tmp_path


def test_found_by_name(folder):
    files, left_out = image_files.find(str(folder))
    assert left_out == {".txt": 2}
    assert [file.name for file in files] == ["a.png", "b/deep/2.JPG", "c.tar/in/3.png", "c.tar/in/4.png"]
    assert [file.read() for file in files] == [png(red) for red in (10, 20, 30, 40)]


def test_one_archive(folder):
    assert [file.name for file in image_files.find(str(folder / "c.tar")).files] == ["c.tar/in/3.png", "c.tar/in/4.png"]


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.struct({"path": pa.string(), "bytes": pa.binary()})]
)
def test_rows_of_a_parquet_file(folder, kind):
    images = [png(red) for red in (50, 60, 70)]
    rows = [{"path": "x.png", "bytes": image} for image in images] if pa.types.is_struct(kind) else images
    table = pa.table({"caption": ["a", "b", "c"], "image": pa.array(rows, kind)})
    pq.write_table(table, folder / "d.parquet", row_group_size=2)
    pq.write_table(table.drop(["image"]), folder / "e.parquet")  # captions alone, as img2dataset writes them
    files, left_out = image_files.find(str(folder))
    assert [file.name for file in files][4:] == [f"d.parquet/00000000{i}" for i in range(3)]
    assert left_out[".parquet"] == 1
    assert [file.read() for file in files[4:]] == images
    assert [file.read() for file in image_files.find(str(folder / "d.parquet")).files] == images
    with pytest.raises(InputError, match=r"e\.parquet: no images in it .*a column 'image'"):
        image_files.find(str(folder / "e.parquet"))


def test_a_damaged_row_group_is_rejected(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [png(50), png(60)]}), path, row_group_size=1, compression="none")
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    usable = image_files.check_images(image_files.find(str(path)))
    assert len(usable.files) == 1 and usable.rejected == {"unreadable_file": 1}


def test_a_missing_image_of_a_parquet_file_is_rejected(tmp_path):
    pq.write_table(pa.table({"image": [png(50), None]}), tmp_path / "a.parquet")
    usable = image_files.check_images(image_files.find(str(tmp_path)))
    assert [file.name for file in usable.files] == ["a.parquet/000000000"] and usable.rejected.total() == 1


def test_batches_are_cropped_as_ingest_crops_and_in_order(folder):
    files = image_files.find(str(folder)).files
    first, second = image_files.batches(files, side=64, batch_size=3)
    assert (first.shape, second.shape, first.dtype) == ((3, 3, 64, 64), (1, 3, 64, 64), torch.uint8)
    for red, square in zip((10, 20, 30, 40), torch.cat([first, second]), strict=True):
        ingested = decode_image.make_square_jpeg(png(red), 64, min_size=64, max_pixels=10**8)
        assert torch.equal(square.permute(1, 2, 0), torch.from_numpy(decode_image.decode_pixels(ingested.jpeg).copy()))


def test_bad_images_are_counted_by_reason(folder):
    (folder / "broken.png").write_bytes(png(50)[:100])
    (folder / "page.jpg").write_bytes(b"<html>")
    (folder / "small.png").write_bytes(png(60, 96, 63))  # ingest wants 64 px
    usable = image_files.check_images(image_files.find(str(folder)))
    assert [file.name for file in usable.files] == ["a.png", "b/deep/2.JPG", "c.tar/in/3.png", "c.tar/in/4.png"]
    assert usable.rejected == {"truncated": 1, "web_page": 1, "too_small": 1}


def test_every_format_that_decodes_is_found_by_its_ending(tmp_path):
    for ending, kind in (("webp", "WEBP"), ("BMP", "BMP"), ("tif", "TIFF"), ("gif", "GIF"), ("jfif", "JPEG")):
        (tmp_path / f"a.{ending}").write_bytes(encode(Image.new("RGB", (80, 80), "red"), kind))
    usable = image_files.check_images(image_files.find(str(tmp_path)))
    assert [file.name for file in usable.files] == ["a.BMP", "a.gif", "a.jfif", "a.tif", "a.webp"]
    assert not usable.rejected and usable.summary() == "5 images"


def test_links_are_followed_and_what_is_left_out_is_counted(tmp_path):
    real, elsewhere = tmp_path / "real", tmp_path / "elsewhere"
    for folder in (real, elsewhere, real / ".cache", elsewhere / "deep"):
        folder.mkdir()
    (elsewhere / "1.png").write_bytes(png(10))
    (elsewhere / "deep" / "2.png").write_bytes(png(20))
    (real / "link.png").symlink_to(elsewhere / "1.png")
    (real / "folder").symlink_to(elsewhere)
    (elsewhere / "deep" / "back").symlink_to(real)  # a circle
    (real / "lost.png").symlink_to(tmp_path / "nothing")
    (real / "._a.png").write_bytes(b"made by a Mac")
    (real / ".cache" / "3.png").write_bytes(png(30))
    (real / "captions.json").write_text("{}")
    (real / "broken.png").write_bytes(b"<html>")
    files, left_out = image_files.find(str(real))
    assert [file.name for file in files] == ["broken.png", "folder/1.png", "folder/deep/2.png", "link.png"]
    assert left_out == {
        "a hidden folder": 1,
        "hidden": 1,
        "a link to nothing": 1,
        ".json": 1,
        "a folder twice, by a link": 1,
    }
    summary = image_files.check_images(image_files.find(str(real))).summary()
    assert summary.startswith("3 images; 1 cannot be used (web_page 1); 5 other files left out (")


def test_hidden_members_and_links_of_an_archive_are_counted(tmp_path):
    (tmp_path / "1.png").write_bytes(png(10))
    with tarfile.open(tmp_path / "a.TAR", "w") as archive:
        archive.add(tmp_path / "1.png", "in/1.png")
        archive.add(tmp_path / "1.png", "in/._1.png")
        link = tarfile.TarInfo("in/2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "1.png"
        archive.addfile(link)
    files, left_out = image_files.find(str(tmp_path / "a.TAR"))
    assert [file.name for file in files] == ["a.TAR/in/1.png"]
    assert left_out == {"hidden": 1, "a link in an archive": 1}


def test_the_digest_depends_on_names_and_contents(folder):
    def digest() -> str:
        return image_files.check_images(image_files.find(str(folder))).sha256

    before = digest()
    (folder / "page.jpg").write_bytes(b"<html>")
    assert digest() == before
    (folder / "a.png").rename(folder / "aa.png")
    renamed = digest()
    (folder / "aa.png").write_bytes(png(11))
    assert len({before, renamed, digest()}) == 3


def test_no_usable_images_are_one_line(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        image_files.find("nowhere")
    with pytest.raises(InputError, match="no images in it"):
        image_files.find(str(tmp_path))
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"none of 1 images can be used: \{'web_page': 1\}"):
        image_files.check_images(image_files.find(str(tmp_path)))
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"broken.parquet: unreadable parquet file"):
        image_files.find(str(tmp_path))
    (tmp_path / "broken.parquet").unlink()
    (tmp_path / "broken.tar").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"broken.tar: unreadable archive"):
        image_files.find(str(tmp_path))
