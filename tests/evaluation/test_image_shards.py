"""Shards of generated images, and the outputs of scorers for them."""

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


def values(output: Path, kind: str, shards: list[Shard]) -> list[int]:
    return [int(np.asarray(image)[0, 0, 0]) for image in image_shards.images(output, kind, shards)]


MADE_BY = {"commit": "c0ffee", "device": "cpu"}
CAPTIONS = (ListedCaption(3, "a cat"), ListedCaption(7, "a dog"))
CANDIDATES = [
    CandidateImages(CAPTIONS[0], [grey(10), grey(20)], [0.1, 0.9]),
    CandidateImages(CAPTIONS[1], [grey(30), grey(40)], [0.5, 0.5]),
]


def test_shards_are_split_by_images_not_by_captions():
    captions = [ListedCaption(i, "x") for i in range(100)]
    shards = image_shards.split(captions, 16)
    assert [len(shard.captions) for shard in shards] == [16] * 6 + [4]
    assert [listed for shard in shards for listed in shard.captions] == captions
    assert [len(shard.captions) for shard in image_shards.split(captions[:2], 1_000)] == [1, 1]


def test_a_shard_keeps_the_best_and_the_first_with_their_captions(tmp_path: Path):
    shard = Shard(0, CAPTIONS)
    assert not image_shards.is_written(tmp_path, 0)
    image_shards.write(tmp_path, 0, CANDIDATES, candidates=2, made_by=MADE_BY)
    assert image_shards.is_written(tmp_path, 0)
    assert values(tmp_path, BEST, [shard]) == [20, 30]  # of equal scores the first candidate
    assert values(tmp_path, FIRST, [shard]) == [10, 30]
    assert image_shards.best_scores(tmp_path, [shard]) == [0.9, 0.5]
    with tarfile.open(tmp_path / "pictures" / "000000.tar") as archive:
        names = archive.getnames()
        assert archive.extractfile("000000000003.txt").read() == b"a cat"  # type: ignore[union-attr]
    assert names == [f"00000000000{i}.{end}" for i in (3, 7) for end in ("png", "txt")]


def test_one_candidate_has_no_second_file(tmp_path: Path):
    image_shards.write(tmp_path, 0, [CandidateImages(CAPTIONS[0], [grey(1)], [0.0])], candidates=1, made_by=MADE_BY)
    assert not (tmp_path / "first").exists() and image_shards.is_written(tmp_path, 0)


def test_equal_images_make_equal_bytes_and_a_damaged_file_is_not_complete(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image_shards.write(tmp_path / name, 0, CANDIDATES, candidates=2, made_by=MADE_BY)
    one, two = (tmp_path / name / "pictures" / "000000.tar" for name in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()
    one.write_bytes(one.read_bytes()[:-1])
    assert not image_shards.is_written(tmp_path / "a", 0)
    flipped = bytearray(two.read_bytes())
    flipped[600] ^= 1
    two.write_bytes(flipped)
    assert not image_shards.is_written(tmp_path / "b", 0)


def test_scorer_outputs_belong_to_the_images_they_were_computed_from(tmp_path: Path):
    shards = [Shard(0, CAPTIONS[:1]), Shard(1, CAPTIONS[1:])]
    for shard, group in zip(shards, CANDIDATES, strict=True):
        image_shards.write(tmp_path, shard.index, [group], candidates=2, made_by=MADE_BY)
        rows = torch.full((1, 3), float(shard.index))
        assert not image_shards.is_scored(tmp_path, "net", BEST, shard.index)
        image_shards.write_scorer_rows(tmp_path, "net", BEST, shard.index, rows)
    assert image_shards.read_scorer_rows(tmp_path, "net", BEST, shards).tolist() == [[0.0] * 3, [1.0] * 3]
    assert not image_shards.is_scored(tmp_path, "net", FIRST, 0)
    image_shards.write(
        tmp_path, 0, [CandidateImages(CAPTIONS[0], [grey(99), grey(98)], [1.0, 0.0])], candidates=2, made_by=MADE_BY
    )  # regenerated
    assert not image_shards.is_scored(tmp_path, "net", BEST, 0) and image_shards.is_scored(tmp_path, "net", BEST, 1)
    file = tmp_path / "judged" / "net" / BEST / "000001.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    assert not image_shards.is_scored(tmp_path, "net", BEST, 1)


def test_versions_and_devices_are_stored_and_reported_once(tmp_path: Path):
    shards = [Shard(0, CAPTIONS[:1]), Shard(1, CAPTIONS[1:])]
    for shard, group, device in zip(shards, CANDIDATES, ("cpu", "Tesla V100"), strict=True):
        image_shards.write(tmp_path, shard.index, [group], candidates=2, made_by=MADE_BY | {"device": device})
    assert image_shards.generated_by(tmp_path, shards) == [MADE_BY, MADE_BY | {"device": "Tesla V100"}]
    assert image_shards.generated_by(tmp_path, [shards[0], shards[0]]) == [MADE_BY]


def test_a_few_images_are_read_by_their_indices(tmp_path: Path):
    shards = [Shard(0, CAPTIONS[:1]), Shard(1, CAPTIONS[1:])]
    for shard, group in zip(shards, CANDIDATES, strict=True):
        image_shards.write(tmp_path, shard.index, [group], candidates=2, made_by=MADE_BY)
    (image,) = image_shards.images(tmp_path, BEST, shards, {1})
    assert np.asarray(image)[0, 0, 0] == 30
