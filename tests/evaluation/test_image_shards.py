"""Shards of images, and rows of numbers that belong to them."""

import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from emage.evaluation import image_shards
from emage.evaluation.caption_list import ListedCaption
from emage.evaluation.image_shards import BEST, FIRST, CandidateImages, Shard


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (value, value, value))


def values(output: Path, kind: str, parts: list[Shard]) -> list[int]:
    return [int(np.asarray(image)[0, 0, 0]) for image in image_shards.images(output, kind, parts)]


MAKER = {"commit": "c0ffee", "device": "cpu"}
TASKS = (ListedCaption(3, "a cat"), ListedCaption(7, "a dog"))
DRAWN = [
    CandidateImages(TASKS[0], [grey(10), grey(20)], [0.1, 0.9]),
    CandidateImages(TASKS[1], [grey(30), grey(40)], [0.5, 0.5]),
]


def test_the_work_is_cut_by_images_not_by_captions():
    tasks = [ListedCaption(i, "x") for i in range(100)]
    parts = image_shards.split(tasks, 16)
    assert [len(part.captions) for part in parts] == [16] * 6 + [4]
    assert [task for part in parts for task in part.captions] == tasks
    assert [len(part.captions) for part in image_shards.split(tasks[:2], 1_000)] == [1, 1]


def test_a_shard_keeps_the_best_and_the_first_with_their_captions(tmp_path: Path):
    part = Shard(0, TASKS)
    assert not image_shards.is_written(tmp_path, 0)
    image_shards.write(tmp_path, 0, DRAWN, candidates=2, made_by=MAKER)
    assert image_shards.is_written(tmp_path, 0)
    assert values(tmp_path, BEST, [part]) == [20, 30]  # of equal scores the first candidate
    assert values(tmp_path, FIRST, [part]) == [10, 30]
    assert image_shards.best_scores(tmp_path, [part]) == [0.9, 0.5]
    with tarfile.open(tmp_path / "pictures" / "000000.tar") as archive:
        names = archive.getnames()
        assert archive.extractfile("000000000003.txt").read() == b"a cat"  # type: ignore[union-attr]
    assert names == [f"00000000000{i}.{end}" for i in (3, 7) for end in ("png", "txt")]


def test_one_candidate_has_no_second_file(tmp_path: Path):
    image_shards.write(tmp_path, 0, [CandidateImages(TASKS[0], [grey(1)], [0.0])], candidates=1, made_by=MAKER)
    assert not (tmp_path / "first").exists() and image_shards.is_written(tmp_path, 0)


def test_equal_images_make_equal_bytes_and_a_cut_file_is_not_done(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image_shards.write(tmp_path / name, 0, DRAWN, candidates=2, made_by=MAKER)
    one, two = (tmp_path / name / "pictures" / "000000.tar" for name in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()
    one.write_bytes(one.read_bytes()[:-1])
    assert not image_shards.is_written(tmp_path / "a", 0)


def test_numbers_belong_to_the_images_that_they_were_made_of(tmp_path: Path):
    parts = [Shard(0, TASKS[:1]), Shard(1, TASKS[1:])]
    for part, drawn in zip(parts, DRAWN, strict=True):
        image_shards.write(tmp_path, part.index, [drawn], candidates=2, made_by=MAKER)
        rows = torch.full((1, 3), float(part.index))
        assert not image_shards.is_scored(tmp_path, "net", BEST, part.index)
        image_shards.write_scorer_rows(tmp_path, "net", BEST, part.index, rows)
    assert image_shards.read_scorer_rows(tmp_path, "net", BEST, parts).tolist() == [[0.0] * 3, [1.0] * 3]
    assert not image_shards.is_scored(tmp_path, "net", FIRST, 0)
    image_shards.write(
        tmp_path, 0, [CandidateImages(TASKS[0], [grey(99), grey(98)], [1.0, 0.0])], candidates=2, made_by=MAKER
    )  # regenerated
    assert not image_shards.is_scored(tmp_path, "net", BEST, 0) and image_shards.is_scored(tmp_path, "net", BEST, 1)
    file = tmp_path / "judged" / "net" / BEST / "000001.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    assert not image_shards.is_scored(tmp_path, "net", BEST, 1)


def test_what_drew_the_images_is_kept_and_told_once(tmp_path: Path):
    parts = [Shard(0, TASKS[:1]), Shard(1, TASKS[1:])]
    for part, drawn, device in zip(parts, DRAWN, ("cpu", "Tesla V100"), strict=True):
        image_shards.write(tmp_path, part.index, [drawn], candidates=2, made_by=MAKER | {"device": device})
    assert image_shards.generated_by(tmp_path, parts) == [MAKER, MAKER | {"device": "Tesla V100"}]
    assert image_shards.generated_by(tmp_path, [parts[0], parts[0]]) == [MAKER]


def test_a_few_images_are_read_by_their_places(tmp_path: Path):
    parts = [Shard(0, TASKS[:1]), Shard(1, TASKS[1:])]
    for part, drawn in zip(parts, DRAWN, strict=True):
        image_shards.write(tmp_path, part.index, [drawn], candidates=2, made_by=MAKER)
    (image,) = image_shards.images(tmp_path, BEST, parts, {1})
    assert np.asarray(image)[0, 0, 0] == 30
