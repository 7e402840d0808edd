"""Requirements on every entry of METRICS. A new metric is tested here without a new test."""

import math

import numpy as np
import pytest
from PIL import Image

from emage.data import shapes
from emage.evaluation.metrics import METRICS

SCENES = shapes.sample_held_out_scenes(4, seed=3)
CAPTIONS = [scene.caption for scene in SCENES]
every_metric = pytest.mark.parametrize("name", list(METRICS))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in shapes.render_many(SCENES, seed=3)]


@every_metric
def test_it_yields_named_numbers_that_are_the_same_each_time(name: str, images: list[Image.Image]):
    METRICS[name].check(iter(CAPTIONS))
    found = list(METRICS[name].measure(iter(images), iter(CAPTIONS)))  # iterators: images are read one at a time
    assert found and len(dict(found)) == len(found)
    assert all(isinstance(key, str) and key.isidentifier() and math.isfinite(value) for key, value in found)
    assert list(METRICS[name].measure(images, CAPTIONS)) == found


@every_metric
def test_it_depends_on_the_images(name: str, images: list[Image.Image]):
    grey = [Image.fromarray(np.full((64, 64, 3), 128, np.uint8))] * len(images)
    assert list(METRICS[name].measure(grey, CAPTIONS)) != list(METRICS[name].measure(images, CAPTIONS))
