"""The real images of the selected captions: found by name or COCO id, one clear line if one is missing or broken."""

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_reference_features import MeanColour, noise

from emage.config import EvaluateConfig, JudgeConfig, preset
from emage.data.images import image_files
from emage.data.images.image_files import UsableImages
from emage.evaluation import caption_list, captioned_images, reference_features
from emage.evaluation.caption_list import ListedCaption
from emage.utils.errors import InputError


def write_images(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(96, 96, seed)).save(folder / name)
    return folder


def captioned(folder: Path) -> JudgeConfig:
    return JudgeConfig(reference=str(folder), reference_images="captioned")


def listed(*images: str | None) -> list[ListedCaption]:
    return [ListedCaption(i, "a cat", image) for i, image in enumerate(images)]


def usable(judge: JudgeConfig, captions: list[ListedCaption]) -> UsableImages:
    return reference_features.check_images(judge, reference_features.list_images(judge, captions))


@pytest.mark.parametrize(
    ("wanted", "file"),
    [
        ("b/2.jpg", "b/2.jpg"),  # by the whole name: there is another 2.jpg
        ("9.jpg", "a/9.jpg"),
        ("tokens_7.jpg", "tokens_7.png"),  # converted
        ("COCO_val2014_000000391895.jpg", "000000391895.jpg"),
        ("000000000042.jpg", "val/COCO_val2014_000000000042.png"),
        ("COCO_val2014_000000000042.jpg", "val/COCO_val2014_000000000042.png"),
    ],
)
def test_an_image_is_found_by_its_name_or_its_coco_id(tmp_path: Path, wanted: str, file: str):
    write_images(tmp_path, "a/2.jpg", "b/2.jpg", "a/9.jpg", "tokens_7.png", "000000391895.jpg")
    write_images(tmp_path, "val/COCO_val2014_000000000042.png", "val/COCO_val2014_000000000043.png")
    found = captioned_images.select(image_files.find(str(tmp_path)).files, listed(wanted, wanted), str(tmp_path))
    assert [one.name for one in found] == [file]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (("0.png", None), "1 of 2 captions name no image; give COCO's caption json or a table with a column `image`"),
        (("0.png", "8.png", "9.png"), r"2 of the 3 images of the selected captions are not in it, the first is 8\.png"),
        (("10.png",), r"1 of the 1 images .* the first is 10\.png"),  # not a/110.png
        (("2.png",), r"the image 2\.png is there 2 times \(a/2\.png and b/2\.png\): keep one of them"),
    ],
)
def test_an_image_that_is_missing_or_there_twice_is_one_line(tmp_path: Path, images: tuple, message: str):
    write_images(tmp_path, "0.png", "a/2.png", "b/2.png", "a/110.png")
    with pytest.raises(InputError, match=message) as error:
        usable(captioned(tmp_path), listed(*images))
    assert "\n" not in str(error.value)


def test_the_cache_holds_captioned_images_apart_from_all_of_the_folder(tmp_path: Path):
    """Features of some images are those of a folder with these images alone, not those of the whole folder."""
    whole = write_images(tmp_path / "whole", *(f"{i}.png" for i in range(5)))
    few = write_images(tmp_path / "few", "1.png", "3.png")
    for name in ("1.png", "3.png"):
        (few / name).write_bytes((whole / name).read_bytes())
    captions = listed("3.png", "1.png", "3.png")
    chosen = usable(captioned(whole), captions)
    assert [file.name for file in chosen.files] == ["1.png", "3.png"] and chosen.left_out == {"not captioned": 3}
    of_all, alone = (usable(JudgeConfig(reference=str(place)), captions) for place in (whole, few))
    keys = [reference_features.key(images, MeanColour(), 96) for images in (chosen, alone, of_all)]
    assert keys[0] == keys[1] != keys[2] and len(of_all.files) == 5
    described = reference_features.describe(captioned(whole), chosen, 96)
    assert described.items() >= {"place": "whole", "images": "captioned", "count": 2}.items()
    assert reference_features.describe(JudgeConfig(reference=str(whole)), of_all, 96)["images"] == "all"


def test_a_broken_image_stops_only_the_evaluation_whose_caption_it_has(tmp_path: Path):
    write_images(tmp_path, "0.png", "1.png")
    (tmp_path / "2.png").write_bytes(b"<html>")
    assert len(usable(captioned(tmp_path), listed("0.png", "1.png")).files) == 2
    with pytest.raises(InputError, match=r"1 of the 2 images of the selected captions cannot be decoded, .* 2\.png"):
        usable(captioned(tmp_path), listed("0.png", "2.png"))


def test_captions_name_their_images_in_every_format(tmp_path: Path):
    rows = [{"id": 5, "image_id": 391895, "caption": "a man"}, {"id": 6, "image_id": 42, "caption": "a dog"}]
    images = [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"}]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": rows}))
    (tmp_path / "a.csv").write_text("caption,image\na man,x/1.jpg\na dog,\n")
    (tmp_path / "a.tsv").write_text("image\tcaption\nx/1.jpg\ta man\n\ta dog\n")
    (tmp_path / "a.jsonl").write_text('{"caption": "a man", "image": "x/1.jpg"}\n{"caption": "a dog"}\n')
    pq.write_table(pa.table({"caption": ["a man", "a dog"], "image": ["x/1.jpg", None]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"caption": ["a man", "a dog"], "image": [b"\xff\xd8", b""]}), tmp_path / "pixels.parquet")
    (tmp_path / "a.txt").write_text("a man\na dog\n")

    def names(file: str) -> list[str | None]:
        return [one.image for one in caption_list.read(str(tmp_path / file), 10, 0)]

    assert names("a.json") == ["COCO_val2014_000000391895.jpg", "000000000042"]  # by the list; else as COCO makes it
    assert all(names(file) == ["x/1.jpg", None] for file in ("a.csv", "a.tsv", "a.jsonl", "a.parquet"))
    assert names("pixels.parquet") == names("a.txt") == [None, None]


def test_a_written_list_names_the_images_again(tmp_path: Path):
    captions = [*listed("0.png", "1.png"), ListedCaption(7, "no image")]
    caption_list.write(tmp_path / "list.parquet", captions)
    assert caption_list.read(str(tmp_path / "list.parquet"), 10, 0) == captions
    caption_list.write(tmp_path / "plain.parquet", listed(None, None))
    assert pq.read_schema(tmp_path / "plain.parquet").names == ["id", "caption"]


def test_the_paper_compares_with_the_captioned_images():
    paths = {"checkpoint": "c", "captions": "c.json", "output": "o", "judge": {"reference": "r"}}
    assert preset(EvaluateConfig, "paper", **paths).judge.reference_images == "captioned"
    assert preset(EvaluateConfig, "demo", **paths).judge.reference_images == "all"


def test_real_coco_photographs(real_data: Path, tmp_path: Path):
    """Of 5,000 captioned images 159 are there: whichever of them have a selected caption are the reference."""
    archive, captions = real_data / "coco_val2017_159.tar", real_data / "coco_captions_val2017.json"
    with tarfile.open(archive) as tar:
        ids = {int(Path(member.name).stem): member.name for member in tar if member.isfile()}
    content = json.loads(captions.read_text())
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in ids]
    (tmp_path / "captions.json").write_text(json.dumps(content))
    selected = caption_list.read(str(tmp_path / "captions.json"), 100, seed=0)
    image_of = {row["id"]: row["image_id"] for row in content["annotations"]}
    expected = sorted(f"{archive.name}/{ids[image_of[one.id]]}" for one in selected)
    found = reference_features.list_images(captioned(archive), selected)
    assert [file.name for file in found.files] == expected and len(expected) == 100
    assert found.left_out == {"not captioned": 59}
    of_all = caption_list.read(str(captions), 1_000, seed=0)
    with pytest.raises(InputError, match=r"of the 1000 images of the selected captions are not in it"):
        reference_features.list_images(captioned(archive), of_all)
