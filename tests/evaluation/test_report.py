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

MAKER = {"commit": "c0ffee", "device": "cpu"}
SHA = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
MADE_BY = {
    "judges": {
        "inception": {"network": "Inception 2015", "mode": "clean: bicubic", "weights_sha256": SHA, "published": True},
        "clip_score": {"model": "ViT-B-32-quickgelu", "weights_sha256": "abcdef0123"},
    },
    "reference": {"place": "val2014", "count": 40_504, "sha256": "0123456789"},
}
FIGURES = {"fid": 19.74, "precision": 0.6, "fid_first": 23.0, "clip_score": 28.1}


@pytest.fixture
def drawn(tmp_path: Path) -> list[image_shards.Shard]:
    """30 images in two shards."""
    scenes = sample_train_scenes(30, seed=0)
    images = [Image.fromarray(pixels) for pixels in render_many(scenes, seed=0)]
    tasks = [ListedCaption(i, scene.caption) for i, scene in enumerate(scenes)]
    parts = [image_shards.Shard(0, tuple(tasks[:20])), image_shards.Shard(1, tuple(tasks[20:]))]
    for part in parts:
        made = [CandidateImages(task, [images[task.id]], [0.0]) for task in part.captions]
        image_shards.write(tmp_path, part.index, made, candidates=1, made_by=MAKER)
    return parts


def test_the_shapes_metric_reads_the_images_of_all_shards(tmp_path: Path, drawn):
    captions = [task.caption for part in drawn for task in part.captions]
    right = dict(METRICS["shapes"].measure(image_shards.images(tmp_path, image_shards.BEST, drawn), captions))
    moved = captions[1:] + captions[:1]
    wrong = dict(METRICS["shapes"].measure(image_shards.images(tmp_path, image_shards.BEST, drawn), moved))
    assert right == {"objects_right": 1.0, "relation_right": 1.0, "all_right": 1.0} and wrong["all_right"] == 0


def test_every_figure_stands_beside_what_it_is_of(tmp_path: Path, drawn):
    made = Report(FIGURES, 30, 2, MADE_BY)
    report.write(tmp_path, made, list(report.grids(tmp_path, drawn, None)))
    text = (tmp_path / "report.md").read_text()
    assert "30 captions, 2 of them longer than" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| fid |")]
    for part in ("19.7400", "30 images", "40504 of val2014", "01234567", "clean: bicubic", "6726825d", "lower"):
        assert part in line
    assert "30 first candidates against" in text and "ViT-B-32-quickgelu (abcdef01); higher" in text
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["figures"] == FIGURES and record["made_by"] == MADE_BY and record["captions_cut"] == 2
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
def test_what_must_be_known_before_comparing_is_said(captions, published, figures, expected):
    judge = MADE_BY["judges"]["inception"] | {"published": published}
    lines = report.warnings(Report(figures, captions, 0, MADE_BY | {"judges": {"inception": judge}}))
    assert len(lines) == len(expected) and all(part in line for part, line in zip(expected, lines, strict=True))


def test_nothing_is_warned_of_where_nothing_was_compared():
    assert report.warnings(Report({"objects_right": 0.5}, 8, 0, {"judges": {}})) == []


def test_the_best_and_the_worst_are_shown(tmp_path: Path, drawn):
    scores = [float(i) for i in range(30)]
    made = report.grids(tmp_path, drawn, scores)
    assert list(made) == ["grid.png", "best.png", "worst.png"]
    assert all(Image.open(tmp_path / name).size[0] > 500 for name in made)
    images = [
        image.resize((128, 128), Image.Resampling.NEAREST) for image in image_shards.images(tmp_path, "pictures", drawn)
    ]
    corner = (8, 8, 136, 136)
    assert made["best.png"].crop(corner).tobytes() == images[29].tobytes()
    assert made["worst.png"].crop(corner).tobytes() == made["grid.png"].crop(corner).tobytes() == images[0].tobytes()
    assert list(report.grids(tmp_path, drawn, [1.0] * 30)) == ["grid.png"]  # nothing tells them apart
