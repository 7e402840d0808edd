"""Real images, cropped without compression, and the cache of their features, keyed by content."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image
from web import encode

from emage.config import JudgeConfig
from emage.data.images import decode_image, image_files
from emage.data.images.decode_image import ImageError
from emage.evaluation import reference_features
from emage.utils.errors import InputError


class MeanColour:
    """An extractor whose answers can be read off the image."""

    name, width = "colour", 3
    metadata = {"network": "mean", "width": 3}  # noqa: RUF012

    def __call__(self, pixels):
        return pixels.float().mean((2, 3))


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def find(folder):
    """Return all usable images of a folder."""
    return reference_features.check_images(JudgeConfig(reference=str(folder)), image_files.find(str(folder)))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Five images, one smaller than ingest accepts, and an HTML page."""
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "real"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(noise(96, 96, seed=i)).save(folder / f"{i}.png")
    Image.fromarray(noise(32, 32)).save(folder / "small.png")
    (folder / "page.jpg").write_bytes(b"<html>")
    return folder


def test_an_image_of_the_correct_size_is_unchanged(place):
    files = find(place).files
    (batch,) = image_files.batches(files[:4], 96, 8, crop=image_files.crop_exactly)
    for i in range(4):
        assert np.array_equal(batch[i].permute(1, 2, 0).numpy(), noise(96, 96, seed=i))


def test_the_longer_side_is_cropped_at_its_centre():
    wide = noise(200, 100)
    assert np.array_equal(image_files.crop_exactly(encode(Image.fromarray(wide), "PNG"), 100), wide[:, 50:150])


def test_a_large_jpeg_is_decoded_in_full():
    image = Image.fromarray(noise(512, 512)).resize((1024, 1024))
    data = encode(image, "JPEG")
    whole = Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(image_files.crop_exactly(data, 64), np.asarray(whole))
    assert not np.array_equal(image_files.crop_as_ingest(data, 64), np.asarray(whole))  # at a quarter, and a JPEG again


def test_images_that_are_unsafe_to_decode_are_rejected():
    with pytest.raises(ImageError, match="too_many_pixels"):
        decode_image.decode_square(encode(Image.new("RGB", (100, 100)), "PNG"), 64, min_size=1, max_pixels=9_999)
    with pytest.raises(ImageError, match="web_page"):
        decode_image.decode_square(b"<html>", 64, min_size=1, max_pixels=10**8)


def test_features_come_in_the_files_order(place):
    images = find(place)
    found = reference_features.features(images.files, MeanColour(), side=96, batch_size=2)
    assert found.shape == (5, 3) and [file.name for file in images.files][-1] == "small.png"
    for i in range(4):
        assert found[i].numpy() == pytest.approx(noise(96, 96, seed=i).mean((0, 1)), abs=1e-3)


def test_description(place):
    images = find(place)
    described = reference_features.describe(JudgeConfig(reference=f"{place}/"), images, 96)
    assert described.items() >= {"place": "real", "count": 5, "refused": {"web_page": 1}}.items()
    assert described["sha256"] == images.sha256 and "96 px" in described["preprocessing"]


def test_no_images_are_one_line(tmp_path):
    with pytest.raises(InputError, match="no images in it"):
        find(tmp_path)


def test_features_are_cached_by_content(place):
    key = reference_features.key(find(place), MeanColour(), 96)
    assert reference_features.load_cached(key) is None
    features = torch.rand(5, 3)
    reference_features.store(key, features)
    found = reference_features.load_cached(key)
    assert found is not None and torch.equal(found, features)
    moved = place.rename(place.with_name("elsewhere"))
    assert reference_features.key(find(moved), MeanColour(), 96) == key


def test_other_images_networks_or_sizes_are_other_features(place):
    images, other = find(place), MeanColour()
    other.metadata = {**MeanColour.metadata, "network": "median"}
    changed = dataclasses.replace(images, sha256="0")
    keys = [(images, MeanColour(), 96), (images, MeanColour(), 64), (images, other, 96), (changed, MeanColour(), 96)]
    assert len({reference_features.key(*key) for key in keys}) == 4


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_a_damaged_file_counts_as_missing(damage, place):
    features = torch.rand(5, 3)
    reference_features.store("key", features)
    (file,) = (place.parent / "cache" / "metrics" / "reference").iterdir()
    content = file.read_bytes()
    flipped = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
    file.write_bytes({"cut": content[:-7], "flipped": flipped, "text": b"hello", "empty": b""}[damage])
    assert reference_features.load_cached("key") is None
    reference_features.store("key", features)
    assert reference_features.load_cached("key") is not None
