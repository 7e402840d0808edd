"""The report of an evaluation: values, warnings and image grids."""

import json
from pathlib import Path

import pytest
from PIL import Image

from emage.data.shapes import render_many, sample_train_scenes
from emage.evaluation import image_shards, report
from emage.evaluation.caption_list import ListedCaption
from emage.evaluation.image_shards import CandidateImages
from emage.evaluation.metrics import METRICS
from emage.evaluation.report import Report

GENERATED_BY = {"commit": "c0ffee", "device": "cpu"}
SHA = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
MADE_BY = {
    "judges": {
        "inception": {"network": "Inception 2015", "mode": "clean: bicubic", "weights_sha256": SHA, "published": True},
        "clip_score": {"model": "ViT-B-32-quickgelu", "weights_sha256": "abcdef0123"},
    },
    "reference": {"place": "val2014", "count": 40_504, "sha256": "0123456789"},
}
VALUES = {"fid": 19.74, "precision": 0.6, "fid_first": 23.0, "clip_score": 28.1}


@pytest.fixture
def shards(tmp_path: Path) -> list[image_shards.Shard]:
    """30 images in two shards."""
    scenes = sample_train_scenes(30, seed=0)
    images = [Image.fromarray(pixels) for pixels in render_many(scenes, seed=0)]
    captions = [ListedCaption(i, scene.caption) for i, scene in enumerate(scenes)]
    parts = [image_shards.Shard(0, tuple(captions[:20])), image_shards.Shard(1, tuple(captions[20:]))]
    for part in parts:
        made = [CandidateImages(listed, [images[listed.id]], [0.0]) for listed in part.captions]
        image_shards.write(tmp_path, part.index, made, candidates=1, made_by=GENERATED_BY)
    return parts


def test_the_shapes_metric_reads_the_images_of_all_shards(tmp_path: Path, shards):
    captions = [listed.caption for shard in shards for listed in shard.captions]
    right = dict(METRICS["shapes"].measure(image_shards.images(tmp_path, image_shards.BEST, shards), captions))
    moved = captions[1:] + captions[:1]
    wrong = dict(METRICS["shapes"].measure(image_shards.images(tmp_path, image_shards.BEST, shards), moved))
    assert right == {"objects_right": 1.0, "relation_right": 1.0, "all_right": 1.0} and wrong["all_right"] == 0


def test_every_value_is_next_to_what_it_was_computed_from(tmp_path: Path, shards):
    made = Report(VALUES, 30, 2, MADE_BY)
    report.write(tmp_path, made, list(report.grids(tmp_path, shards, None)))
    text = (tmp_path / "report.md").read_text()
    assert "30 captions, 2 of them longer than" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| fid |")]
    for part in ("19.7400", "30 images", "40504 of val2014", "01234567", "clean: bicubic", "6726825d", "lower"):
        assert part in line
    assert "30 first candidates against" in text and "ViT-B-32-quickgelu (abcdef01); higher" in text
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["figures"] == VALUES and record["made_by"] == MADE_BY and record["captions_cut"] == 2
    assert len(record["warnings"]) == 2 and all(line in text for line in record["warnings"])


@pytest.mark.parametrize(
    ("captions", "published", "figures", "expected"),
    [
        (2_048, True, {"fid": 1.0}, []),
        (2_047, True, {"fid": 1.0}, ["DO NOT COMPARE"]),
        (2_048, False, {"frechet_tokenizer": 1.0}, ["no FID"]),
        (2_048, True, {"fid": 1.0, "fid_first": 2.0}, ["best of several"]),
    ],
)
def test_reasons_not_to_compare_are_reported(captions, published, figures, expected):
    judge = MADE_BY["judges"]["inception"] | {"published": published}
    lines = report.warnings(Report(figures, captions, 0, MADE_BY | {"judges": {"inception": judge}}))
    assert len(lines) == len(expected) and all(part in line for part, line in zip(expected, lines, strict=True))


def test_no_warning_if_nothing_was_compared():
    assert report.warnings(Report({"objects_right": 0.5}, 8, 0, {"judges": {}})) == []


def test_the_best_and_the_worst_are_shown(tmp_path: Path, shards):
    scores = [float(i) for i in range(30)]
    made = report.grids(tmp_path, shards, scores)
    assert list(made) == ["grid.png", "best.png", "worst.png"]
    assert all(Image.open(tmp_path / name).size[0] > 500 for name in made)
    images = [
        image.resize((128, 128), Image.Resampling.NEAREST)
        for image in image_shards.images(tmp_path, "pictures", shards)
    ]
    corner = (8, 8, 136, 136)
    assert made["best.png"].crop(corner).tobytes() == images[29].tobytes()
    assert made["worst.png"].crop(corner).tobytes() == made["grid.png"].crop(corner).tobytes() == images[0].tobytes()
    assert list(report.grids(tmp_path, shards, [1.0] * 30)) == ["grid.png"]  # all scores are equal
