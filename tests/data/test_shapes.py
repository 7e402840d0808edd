"""The toy world: what is held out stays out of training, seeds decide, captions and scenes are one to one."""

import numpy as np
import pytest

from emage.data import shapes
from emage.data.shapes import BLOCK_SIZE, HELD_OUT_KINDS, Scene, SceneObject


def test_caption_and_back():
    scene = Scene(SceneObject("small", "red", "circle"), "left of", SceneObject("large", "blue", "square"))
    assert scene.caption == "a small red circle left of a large blue square"
    for scene in shapes.sample_scenes(200, seed=0):
        assert shapes.parse(scene.caption) == scene


@pytest.mark.parametrize("caption", ["a red circle", "a small red dog above a large blue square", ""])
def test_a_caption_of_another_world_is_rejected(caption):
    with pytest.raises(ValueError):
        shapes.parse(caption)


def kinds(scene):
    return frozenset((scene.first.kind, scene.second.kind))


def test_held_out_kinds_and_combinations_are_never_in_training():
    train = {kinds(scene) for scene in shapes.sample_train_scenes(20_000, seed=1)}
    seen = frozenset().union(*train)
    assert len(seen) == 22 and not seen & set(HELD_OUT_KINDS)
    for scene in shapes.sample_held_out_scenes(500, seed=1):
        assert kinds(scene) not in train and kinds(scene) <= seen
    for scene in shapes.sample_unseen_kind_scenes(500, seed=1):
        assert kinds(scene) & set(HELD_OUT_KINDS)


def test_held_out_images_are_made_of_patches_seen_in_training():
    def patches(scenes):
        images = shapes.render_many(scenes, seed=2).reshape(-1, 8, BLOCK_SIZE, 8, BLOCK_SIZE, 3).swapaxes(2, 3)
        return {patch.tobytes() for patch in images.reshape(-1, BLOCK_SIZE, BLOCK_SIZE, 3)}

    train = patches(shapes.sample_train_scenes(3000, seed=3))
    assert len(train) < 200
    assert patches(shapes.sample_unseen_kind_scenes(500, seed=3)) <= train


def test_the_seed_decides():
    scenes = shapes.sample_train_scenes(20, seed=4)
    assert scenes == shapes.sample_train_scenes(20, seed=4) != shapes.sample_train_scenes(20, seed=5)
    assert (shapes.render_many(scenes, seed=4) == shapes.render_many(scenes, seed=4)).all()
    assert not (shapes.render_many(scenes, seed=4) == shapes.render_many(scenes, seed=5)).all()


def test_a_caption_has_eight_images():
    scene = shapes.parse("a small red circle above a large blue square")
    rng = np.random.default_rng(0)
    assert len({shapes.render(scene, rng).tobytes() for _ in range(200)}) == 8
    assert len({shapes.render(scene, rng, jitter=0).tobytes() for _ in range(20)}) == 1
