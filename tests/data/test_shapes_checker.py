"""The checker of the toy world: it reads rendered images, blurred ones too, and rejects wrong captions."""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from emage.data import shapes
from emage.data.shapes import COLOURS, RELATIONS, SHAPES, SIZES
from emage.data.shapes_checker import Verdict, check, detect_shapes


def test_the_checker_reads_rendered_images():
    rng = np.random.default_rng(6)
    scenes = shapes.sample_scenes(1000, seed=6)
    correct = [check(shapes.render(scene, rng), scene.caption).all_correct for scene in scenes]
    assert np.mean(correct) >= 0.99


def change_one_attribute(scene, rng):
    """Return a scene that differs in one word of the caption."""
    field = ("first", "second", "relation")[rng.integers(3)]
    if field == "relation":
        return replace(scene, relation=another(scene.relation, RELATIONS, rng))
    item = getattr(scene, field)
    part, names = (("size", SIZES), ("colour", COLOURS), ("shape", SHAPES))[rng.integers(3)]
    return replace(scene, **{field: replace(item, **{part: another(getattr(item, part), names, rng)})})


def another(name, names, rng):
    others = [other for other in names if other != name]
    return others[rng.integers(len(others))]


def test_the_checker_rejects_wrong_captions():
    rng = np.random.default_rng(7)
    passed = 0
    for scene in shapes.sample_scenes(1000, seed=7):
        wrong = change_one_attribute(scene, rng)
        passed += check(shapes.render(scene, rng), wrong.caption).all_correct
    assert passed < 10


def test_the_checker_reads_blurred_and_noisy_images():
    rng = np.random.default_rng(8)
    correct = []
    for scene in shapes.sample_scenes(200, seed=8):
        pixels = np.asarray(shapes.render(scene, rng).filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32)
        noisy = Image.fromarray((pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8))
        correct.append(check(noisy, scene.caption).all_correct)
    assert np.mean(correct) >= 0.98


def test_the_verdict_names_what_is_wrong():
    image = shapes.render(shapes.parse("a small red circle above a large blue square"), np.random.default_rng(9))
    assert check(image, "a small red circle above a large blue square") == Verdict(True, True, True)
    assert check(image, "a large blue square below a small red circle") == Verdict(True, True, True)
    assert check(image, "a small red circle below a large blue square") == Verdict(True, False, True)
    assert check(image, "a large red circle above a large blue square") == Verdict(True, True, False)
    assert check(image, "a small red square above a large blue square") == Verdict(False, False, False)


def test_a_third_object_or_an_empty_image_is_wrong():
    caption = "a small red circle above a large blue square"
    image = shapes.render(shapes.parse(caption), np.random.default_rng(10))
    ImageDraw.Draw(image).rectangle((0, 56, 8, 63), fill="green")
    assert len(detect_shapes(image)) == 3
    assert not check(image, caption).objects
    assert detect_shapes(Image.new("RGB", (64, 64), "white")) == []
