import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from emage.data import shapes
from emage.data.shapes import CELL, HELD_OUT_KINDS, Scene, Thing


def test_caption_and_back():
    scene = Scene(Thing("small", "red", "circle"), "left of", Thing("large", "blue", "square"))
    assert scene.caption == "a small red circle left of a large blue square"
    for scene in shapes.scenes(200, seed=0):
        assert shapes.parse(scene.caption) == scene


@pytest.mark.parametrize("caption", ["a red circle", "a small red dog above a large blue square", ""])
def test_a_caption_of_another_world_is_refused(caption):
    with pytest.raises(ValueError):
        shapes.parse(caption)


def kinds(scene):
    return frozenset((scene.first.kind, scene.second.kind))


def test_held_out_kinds_and_combinations_are_never_in_training():
    train = {kinds(scene) for scene in shapes.train_scenes(20_000, seed=1)}
    seen = frozenset().union(*train)
    assert len(seen) == 22 and not seen & set(HELD_OUT_KINDS)
    for scene in shapes.held_out_scenes(500, seed=1):
        assert kinds(scene) not in train and kinds(scene) <= seen
    for scene in shapes.unseen_kind_scenes(500, seed=1):
        assert kinds(scene) & set(HELD_OUT_KINDS)


def test_held_out_images_are_made_of_patches_seen_in_training():
    def patches(scenes):
        images = shapes.draw_many(scenes, seed=2).reshape(-1, 8, CELL, 8, CELL, 3).swapaxes(2, 3)
        return {patch.tobytes() for patch in images.reshape(-1, CELL, CELL, 3)}

    train = patches(shapes.train_scenes(3000, seed=3))
    assert len(train) < 200
    assert patches(shapes.unseen_kind_scenes(500, seed=3)) <= train


def test_the_seed_decides():
    scenes = shapes.train_scenes(20, seed=4)
    assert scenes == shapes.train_scenes(20, seed=4) != shapes.train_scenes(20, seed=5)
    assert (shapes.draw_many(scenes, seed=4) == shapes.draw_many(scenes, seed=4)).all()
    assert not (shapes.draw_many(scenes, seed=4) == shapes.draw_many(scenes, seed=5)).all()


def test_a_caption_has_eight_images():
    scene = shapes.parse("a small red circle above a large blue square")
    rng = np.random.default_rng(0)
    assert len({shapes.draw(scene, rng).tobytes() for _ in range(200)}) == 8
    assert len({shapes.draw(scene, rng, jitter=0).tobytes() for _ in range(20)}) == 1


def test_the_checker_reads_true_drawings():
    rng = np.random.default_rng(6)
    scenes = shapes.scenes(1000, seed=6)
    assert np.mean([shapes.check(shapes.draw(scene, rng), scene.caption).right for scene in scenes]) >= 0.99


def test_the_checker_refuses_wrong_captions():
    rng = np.random.default_rng(7)
    passed = 0
    for scene in shapes.scenes(1000, seed=7):
        wrong = shapes.one_attribute_changed(scene, rng)
        passed += shapes.check(shapes.draw(scene, rng), wrong.caption).right
    assert passed < 10


def test_the_checker_reads_blurred_and_noisy_drawings():
    rng = np.random.default_rng(8)
    right = []
    for scene in shapes.scenes(200, seed=8):
        pixels = np.asarray(shapes.draw(scene, rng).filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32)
        noisy = Image.fromarray((pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8))
        right.append(shapes.check(noisy, scene.caption).right)
    assert np.mean(right) >= 0.98


def test_the_verdict_names_what_is_wrong():
    image = shapes.draw(shapes.parse("a small red circle above a large blue square"), np.random.default_rng(9))
    assert shapes.check(image, "a small red circle above a large blue square") == shapes.Verdict(True, True, True)
    assert shapes.check(image, "a large blue square below a small red circle") == shapes.Verdict(True, True, True)
    assert shapes.check(image, "a small red circle below a large blue square") == shapes.Verdict(True, False, True)
    assert shapes.check(image, "a large red circle above a large blue square") == shapes.Verdict(True, True, False)
    assert shapes.check(image, "a small red square above a large blue square") == shapes.Verdict(False, False, False)


def test_a_third_object_or_an_empty_image_is_wrong():
    caption = "a small red circle above a large blue square"
    image = shapes.draw(shapes.parse(caption), np.random.default_rng(10))
    ImageDraw.Draw(image).rectangle((0, 56, 8, 63), fill="green")
    assert len(shapes.read(image)) == 3
    assert not shapes.check(image, caption).objects
    assert shapes.read(Image.new("RGB", (64, 64), "white")) == []
